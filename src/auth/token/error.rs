//! Why a token is refused, for logs and `check`. Clients receive `unauthenticated` only.
//!
//! No variant contains text of the token, so none can reach a log.

use std::fmt;

/// The three parts of a compact JWS (RFC 7515 section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Header,
    Claims,
    Signature,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is longer than limits.max_token_bytes")]
    TooLong,
    #[error("the token is not a compact JWS of three parts")]
    NotThreeParts,
    /// Padding, foreign characters, or trailing bits.
    #[error("the {0} is not canonical base64url")]
    NotBase64url(Part),
    /// Not one JSON object, a repeated name, or nested too deep.
    #[error("the {0} is not a valid JSON object")]
    NotAnObject(Part),
    /// A header parameter that changes the meaning of the token.
    #[error("the header parameter {0} is not allowed")]
    HeaderForbidden(&'static str),
    /// A header parameter of the wrong JSON type.
    #[error("the header parameter {0} is missing or has the wrong type")]
    HeaderType(&'static str),
    #[error("the token is not signed (alg none)")]
    AlgorithmNone,
    /// Unknown, symmetric, not allowed for the issuer, or not supported by the key.
    #[error("alg is not allowed for this issuer and key")]
    AlgorithmNotAllowed,
    #[error("typ is not that of an access token")]
    TypNotAllowed,
    #[error("iss is not a configured issuer")]
    IssuerUnknown,
    #[error("the issuer has no such key")]
    KeyUnknown,
    /// The key may exist: the issuer's keys could not be fetched since the token named it.
    #[error("the issuer has no such key yet")]
    KeyNotFetched,
    #[error("the issuer's keys are not fetched yet")]
    KeysMissing,
    /// The keys were not confirmed for `jwks_max_age_secs`.
    #[error("the issuer's keys are older than jwks_max_age_secs")]
    KeysTooOld,
    #[error("the token names no key and the issuer has several")]
    KeyAmbiguous,
    #[error("the signature does not verify")]
    SignatureInvalid,
    #[error("the claim {0} is missing")]
    ClaimMissing(&'static str),
    /// A claim of the wrong JSON type, or a required claim that is empty.
    #[error("the claim {0} is malformed")]
    ClaimInvalid(&'static str),
    #[error("aud contains none of the issuer's audiences")]
    AudienceMismatch,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet (nbf or iat)")]
    NotYetValid,
    #[error("the lifetime exceeds max_lifetime_secs")]
    LifetimeTooLong,
    /// A logout token or another security event (RFC 8417).
    #[error("the token is a security event, not an access token")]
    SecurityEvent,
    #[error("the token is an ID token or a refresh token, not an access token")]
    NotAccessToken,
}

impl TokenError {
    /// Whether newer keys of the issuer may verify the token.
    pub fn is_about_keys(self) -> bool {
        self == Self::KeyUnknown || self.is_temporary()
    }

    /// Whether the same token may be accepted later: the gateway lacks the issuer's keys.
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::KeyNotFetched | Self::KeysMissing | Self::KeysTooOld)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Claims => "claims",
            Self::Signature => "signature",
        })
    }
}
