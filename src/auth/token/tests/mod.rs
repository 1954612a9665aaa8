//! Tests of token verification, one per rule.

mod claims;
mod form;
pub mod jwks;
mod keys;
mod mint;

use std::sync::{Arc, LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use ed25519_dalek::SigningKey;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://sso.example.com";

/// A private key with its public key as an issuer publishes it.
struct TestKey {
    private: EncodingKey,
    public: Value,
    pem: String,
}

impl TestKey {
    fn new(kind: &'static rcgen::SignatureAlgorithm, algorithm: Algorithm, read: fn(&[u8]) -> EncodingKey) -> Self {
        let pem = rcgen::KeyPair::generate_for(kind).unwrap().serialize_pem();
        let private = read(pem.as_bytes());
        let public = serde_json::to_value(Jwk::from_encoding_key(&private, algorithm).unwrap()).unwrap();
        Self { private, public, pem }
    }

    /// The public key with additional members; `null` removes one.
    fn jwk(&self, members: Value) -> Jwk {
        let mut jwk = self.public.clone();
        for (name, value) in members.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        let object = jwk.as_object_mut().unwrap();
        object.retain(|_, value| !value.is_null());
        serde_json::from_value(jwk).unwrap()
    }
}

static RSA: LazyLock<TestKey> = LazyLock::new(|| {
    TestKey::new(&rcgen::PKCS_RSA_SHA256, Algorithm::RS256, |pem| EncodingKey::from_rsa_pem(pem).unwrap())
});
static P256: LazyLock<TestKey> = LazyLock::new(|| {
    TestKey::new(&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::ES256, |pem| EncodingKey::from_ec_pem(pem).unwrap())
});
static P384: LazyLock<TestKey> = LazyLock::new(|| {
    TestKey::new(&rcgen::PKCS_ECDSA_P384_SHA384, Algorithm::ES384, |pem| EncodingKey::from_ec_pem(pem).unwrap())
});

fn minting(seed: u8) -> MintingKey {
    MintingKey::from_ed25519(&SigningKey::from_bytes(&[seed; 32])).unwrap()
}

fn config(keys: Vec<Jwk>, algorithms: &[Algorithm]) -> IssuerConfig {
    IssuerConfig {
        issuer: ISSUER.to_owned(),
        audiences: vec!["lastmile".to_owned(), "lastmile-2".to_owned()],
        audience_claim: "aud".to_owned(),
        groups_claim: "groups".to_owned(),
        keys: KeySource::File { keys: JwkSet { keys }, changed: 0 },
        keys_max_age_secs: 0,
        algorithms: algorithms.to_vec(),
        typ: None,
        leeway_secs: 30,
        max_lifetime_secs: 3600,
    }
}

fn issuers(keys: Vec<Jwk>, algorithms: &[Algorithm]) -> Issuers {
    Issuers::new(vec![config(keys, algorithms)]).unwrap()
}

/// An issuer with one P-256 key, `k1`.
fn p256() -> Issuers {
    issuers(vec![P256.jwk(json!({"kid": "k1"}))], &[Algorithm::ES256])
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "aud": "lastmile", "iat": NOW, "exp": NOW + 600})
}

/// Valid claims with changes; `null` removes one.
fn claims_with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

/// Any bytes as header and claims, with a valid signature.
fn sign(header: &str, claims: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let signed = format!("{}.{}", B64.encode(header), B64.encode(claims));
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), key, algorithm).unwrap();
    format!("{signed}.{signature}")
}

/// A token of the P-256 issuer.
fn token(header: Value, claims: Value) -> String {
    sign(&header.to_string(), &claims.to_string(), &P256.private, Algorithm::ES256)
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "k1"})
}

fn verdict(issuers: &Issuers, token: &str) -> Result<String, TokenError> {
    issuers.verify(token, NOW).map(|principal| principal.subject.to_string())
}

fn refused(header: Value, claims: Value) -> TokenError {
    p256().verify(&token(header, claims), NOW).unwrap_err()
}

fn ed25519_pem(seed: u8) -> Vec<u8> {
    use ed25519_dalek::pkcs8::{EncodePrivateKey, spki::der::pem::LineEnding};
    SigningKey::from_bytes(&[seed; 32]).to_pkcs8_pem(LineEnding::LF).unwrap().as_bytes().to_vec()
}
