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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// More than 8 KiB.
    TooLong,
    NotThreeParts,
    /// Padding, foreign characters, or trailing bits.
    NotBase64url(Part),
    /// Not one JSON object, a repeated name, or nested too deep.
    NotAnObject(Part),
    /// A header parameter that changes the meaning of the token.
    HeaderForbidden(&'static str),
    /// A header parameter of the wrong JSON type.
    HeaderType(&'static str),
    AlgorithmNone,
    /// Unknown, symmetric, not allowed for the issuer, or not supported by the key.
    AlgorithmNotAllowed,
    TypNotAllowed,
    IssuerUnknown,
    KeyUnknown,
    /// No keys were fetched from the provider yet.
    KeysMissing,
    /// The keys were not confirmed for `jwks_max_age_secs`.
    KeysTooOld,
    /// The token names no key and several keys match.
    KeyAmbiguous,
    SignatureInvalid,
    ClaimMissing(&'static str),
    /// A claim of the wrong JSON type, or a required claim that is empty.
    ClaimInvalid(&'static str),
    AudienceMismatch,
    Expired,
    NotYetValid,
    LifetimeTooLong,
    /// A logout token or another security event (RFC 8417).
    SecurityEvent,
}

impl TokenError {
    /// Whether newer keys of the issuer may verify the token.
    pub fn is_about_keys(self) -> bool {
        matches!(self, Self::KeyUnknown | Self::KeysMissing | Self::KeysTooOld)
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

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("the token is longer than 8 KiB"),
            Self::NotThreeParts => f.write_str("the token is not a compact JWS of three parts"),
            Self::NotBase64url(part) => write!(f, "the {part} is not canonical base64url"),
            Self::NotAnObject(part) => write!(f, "the {part} is not a valid JSON object"),
            Self::HeaderForbidden(name) => write!(f, "the header parameter {name} is not allowed"),
            Self::HeaderType(name) => write!(f, "the header parameter {name} is missing or has the wrong type"),
            Self::AlgorithmNone => f.write_str("the token is not signed (alg none)"),
            Self::AlgorithmNotAllowed => f.write_str("alg is not allowed for this issuer and key"),
            Self::TypNotAllowed => f.write_str("typ is not that of an access token"),
            Self::IssuerUnknown => f.write_str("iss is not a configured issuer"),
            Self::KeyUnknown => f.write_str("the issuer has no such key"),
            Self::KeysMissing => f.write_str("the issuer's keys are not fetched yet"),
            Self::KeysTooOld => f.write_str("the issuer's keys are older than jwks_max_age_secs"),
            Self::KeyAmbiguous => f.write_str("the token names no key and the issuer has several"),
            Self::SignatureInvalid => f.write_str("the signature does not verify"),
            Self::ClaimMissing(name) => write!(f, "the claim {name} is missing"),
            Self::ClaimInvalid(name) => write!(f, "the claim {name} is malformed"),
            Self::AudienceMismatch => f.write_str("aud contains none of the issuer's audiences"),
            Self::Expired => f.write_str("the token has expired"),
            Self::NotYetValid => f.write_str("the token is not valid yet (nbf or iat)"),
            Self::LifetimeTooLong => f.write_str("the lifetime exceeds max_lifetime_secs"),
            Self::SecurityEvent => f.write_str("the token is a security event, not an access token"),
        }
    }
}

impl std::error::Error for TokenError {}
