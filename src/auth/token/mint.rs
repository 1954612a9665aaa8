//! Creation of tokens, for development and for applications that are issuers. The gateway itself never creates any.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, JwkSet, OctetKeyPairParameters, OctetKeyPairType,
    PublicKeyUse, ThumbprintHash,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// PKCS#8 prefix of the 32 bytes of a private key (RFC 8410 section 7).
const ED25519_PKCS8_PREFIX: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

/// A private key that signs tokens, with its public key.
pub struct MintingKey {
    algorithm: Algorithm,
    private: EncodingKey,
    public: Jwk,
    key_id: String,
}

/// Claims of a new token.
#[derive(Clone, Debug, Default)]
pub struct TokenRequest {
    pub issuer: String,
    pub subject: String,
    /// A single one is written as a string, several as a list.
    pub audiences: Vec<String>,
    pub lifetime_secs: u64,
    pub scopes: Vec<String>,
    pub groups: Vec<String>,
    /// Further claims, without the names above.
    pub claims: Map<String, Value>,
}

/// Why no token was created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    #[error("unsupported private key: Ed25519, P-256 or P-384 in PKCS#8 (BEGIN PRIVATE KEY) is needed")]
    UnsupportedKey,
    /// A part of the request is empty.
    #[error("a token needs: {0}")]
    Missing(&'static str),
    /// A further claim has the name of another member.
    #[error("the claim {0:?} is already set")]
    ReservedClaim(String),
    #[error("the lifetime is too long")]
    LifetimeTooLong,
    #[error("the token could not be signed")]
    Signing,
}

impl MintingKey {
    /// `pem` is PKCS#8 (`BEGIN PRIVATE KEY`): Ed25519 signs with EdDSA, P-256 with ES256, P-384 with ES384.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, MintError> {
        if let Ok(key) = SigningKey::from_pkcs8_pem(pem.trim()) {
            return Self::from_ed25519(&key);
        }
        let private = EncodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| MintError::UnsupportedKey)?;
        [Algorithm::ES256, Algorithm::ES384]
            .into_iter()
            .find_map(|algorithm| {
                let public = Jwk::from_encoding_key(&private, algorithm).ok()?;
                Self::new(algorithm, private.clone(), public.algorithm).ok()
            })
            .ok_or(MintError::UnsupportedKey)
    }

    pub fn from_ed25519(key: &SigningKey) -> Result<Self, MintError> {
        let mut der = Zeroizing::new([0; 48]);
        der[..16].copy_from_slice(&ED25519_PKCS8_PREFIX);
        der[16..].copy_from_slice(key.as_bytes());
        let public = AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
            key_type: OctetKeyPairType::OctetKeyPair,
            curve: EllipticCurve::Ed25519,
            x: URL_SAFE_NO_PAD.encode(key.verifying_key()),
        });
        Self::new(Algorithm::EdDSA, EncodingKey::from_ed_der(&*der), public)
    }

    fn new(algorithm: Algorithm, private: EncodingKey, public: AlgorithmParameters) -> Result<Self, MintError> {
        let mut public = Jwk { common: CommonParameters::default(), algorithm: public };
        let key_id = public.thumbprint(ThumbprintHash::SHA256).map_err(|_| MintError::UnsupportedKey)?;
        public.common = CommonParameters {
            public_key_use: Some(PublicKeyUse::Signature),
            key_algorithm: Some(algorithm.into()),
            key_id: Some(key_id.clone()),
            ..CommonParameters::default()
        };
        Ok(Self { algorithm, private, public, key_id })
    }

    /// The `kid`: the thumbprint of RFC 7638.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key.
    pub fn jwk(&self) -> &Jwk {
        &self.public
    }

    /// The public key as a JWK Set, for `jwks_file`.
    pub fn jwks(&self) -> JwkSet {
        JwkSet { keys: vec![self.public.clone()] }
    }

    /// An access token in the form of RFC 9068; `now` in seconds since 1970.
    pub fn mint(&self, request: TokenRequest, now: u64) -> Result<String, MintError> {
        let mut header = Header::new(self.algorithm);
        header.typ = Some("at+jwt".to_owned());
        header.kid = Some(self.key_id.clone());
        encode(&header, &request.into_claims(now)?, &self.private).map_err(|_| MintError::Signing)
    }
}

impl TokenRequest {
    fn into_claims(self, now: u64) -> Result<Map<String, Value>, MintError> {
        let Self { issuer, subject, mut audiences, lifetime_secs, scopes, groups, claims } = self;
        let missing = [
            ("issuer", issuer.is_empty()),
            ("subject", subject.is_empty()),
            ("audience", audiences.is_empty() || audiences.iter().any(String::is_empty)),
            ("lifetime", lifetime_secs == 0),
        ];
        if let Some((name, _)) = missing.into_iter().find(|(_, is_missing)| *is_missing) {
            return Err(MintError::Missing(name));
        }
        let expires = now.checked_add(lifetime_secs).ok_or(MintError::LifetimeTooLong)?;
        let audience = if audiences.len() == 1 { audiences.remove(0).into() } else { Value::from(audiences) };
        let mut all = Map::new();
        all.insert("iss".to_owned(), issuer.into());
        all.insert("sub".to_owned(), subject.into());
        all.insert("aud".to_owned(), audience);
        all.insert("iat".to_owned(), now.into());
        all.insert("exp".to_owned(), expires.into());
        all.insert("jti".to_owned(), random_id()?.into());
        if !scopes.is_empty() {
            all.insert("scope".to_owned(), scopes.join(" ").into());
        }
        if !groups.is_empty() {
            all.insert("groups".to_owned(), groups.into());
        }
        for (name, value) in claims {
            if all.contains_key(&name) {
                return Err(MintError::ReservedClaim(name));
            }
            all.insert(name, value);
        }
        Ok(all)
    }
}

fn random_id() -> Result<String, MintError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| MintError::Signing)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

impl fmt::Debug for MintingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintingKey").field("algorithm", &self.algorithm).field("key_id", &self.key_id).finish()
    }
}
