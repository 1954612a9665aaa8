//! The public keys of one issuer, read once and ready to verify (RFC 7517).
//!
//! A key that cannot be used is skipped, as RFC 7517 section 5 asks, and remembered with the reason for `check`.

use std::collections::HashMap;
use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::VerifyingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};

use super::error::TokenError;

/// Characters of a `kid`.
const MAX_KEY_ID: usize = 256;

/// A key, and what it may verify. The algorithm is a property of the key, never of the token (RFC 8725 section 3.1).
pub struct Key {
    pub decoding: DecodingKey,
    algorithms: Vec<Algorithm>,
}

/// A key of the set that verifies nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    pub key_id: Option<String>,
    pub reason: Unusable,
}

/// Why a key verifies nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// `use` or `key_ops` says that it does something else.
    NotForSignatures,
    /// A kind of key or curve that is not known here.
    UnknownKind,
    /// A shared secret has no place beside public keys.
    Symmetric,
    /// None of the issuer's algorithms goes with it.
    AlgorithmNotAllowed,
    /// Not base64url, or of the wrong length.
    Malformed,
    /// An RSA key outside 2048 to 8192 bits, or an Ed25519 key that would verify anything.
    Weak,
    /// A `kid` of more than 256 characters.
    KeyIdTooLong,
}

/// The usable keys by `kid`.
pub struct KeySet {
    keys: Vec<Key>,
    by_id: HashMap<String, Vec<usize>>,
    pub skipped: Vec<SkippedKey>,
}

/// Two keys have this `kid` and go with the same algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateKeyId(pub String);

impl KeySet {
    /// Keeps the keys that go with one of `algorithms`.
    pub fn new(set: &JwkSet, algorithms: &[Algorithm]) -> Result<Self, DuplicateKeyId> {
        let mut this = Self { keys: Vec::new(), by_id: HashMap::new(), skipped: Vec::new() };
        for jwk in &set.keys {
            let key_id = jwk.common.key_id.clone();
            match Key::new(jwk, algorithms) {
                Ok(key) => this.add(key_id, key)?,
                Err(reason) => this.skipped.push(SkippedKey { key_id, reason }),
            }
        }
        Ok(this)
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key that the token names, or the only one that would do if it names none.
    pub fn find(&self, key_id: Option<&str>, algorithm: Algorithm) -> Result<&Key, TokenError> {
        let Some(key_id) = key_id else {
            let mut fitting = self.keys.iter().filter(|key| key.goes_with(algorithm));
            return match (fitting.next(), fitting.next()) {
                (Some(key), None) => Ok(key),
                (None, _) => Err(TokenError::AlgorithmNotAllowed),
                (Some(_), Some(_)) => Err(TokenError::KeyAmbiguous),
            };
        };
        // Only ever compared: never a path, a URL or a query.
        if key_id.chars().nth(MAX_KEY_ID).is_some() {
            return Err(TokenError::KeyUnknown);
        }
        let named = self.by_id.get(key_id).ok_or(TokenError::KeyUnknown)?;
        let fitting = named.iter().map(|index| &self.keys[*index]).find(|key| key.goes_with(algorithm));
        fitting.ok_or(TokenError::AlgorithmNotAllowed)
    }

    fn add(&mut self, key_id: Option<String>, key: Key) -> Result<(), DuplicateKeyId> {
        if let Some(key_id) = key_id {
            let named = self.by_id.entry(key_id.clone()).or_default();
            // Keys of different kinds may share a kid (RFC 7517 section 4.5).
            if named.iter().any(|index| key.algorithms.iter().any(|one| self.keys[*index].goes_with(*one))) {
                return Err(DuplicateKeyId(key_id));
            }
            named.push(self.keys.len());
        }
        self.keys.push(key);
        Ok(())
    }
}

impl Key {
    fn new(jwk: &Jwk, allowed: &[Algorithm]) -> Result<Self, Unusable> {
        if jwk.common.key_id.as_ref().is_some_and(|id| id.chars().nth(MAX_KEY_ID).is_some()) {
            return Err(Unusable::KeyIdTooLong);
        }
        let use_fits = jwk.common.public_key_use.as_ref().is_none_or(|wanted| *wanted == PublicKeyUse::Signature);
        let operations = jwk.common.key_operations.as_ref();
        if !use_fits || operations.is_some_and(|all| !all.contains(&KeyOperations::Verify)) {
            return Err(Unusable::NotForSignatures);
        }
        let (decoding, possible) = read(&jwk.algorithm)?;
        let algorithms: Vec<_> = possible
            .iter()
            .copied()
            .filter(|one| allowed.contains(one) && announces(jwk.common.key_algorithm, *one))
            .collect();
        if algorithms.is_empty() {
            return Err(Unusable::AlgorithmNotAllowed);
        }
        Ok(Self { decoding, algorithms })
    }

    fn goes_with(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }
}

/// Whether the `alg` of a key leaves room for `algorithm`.
fn announces(announced: Option<KeyAlgorithm>, algorithm: Algorithm) -> bool {
    match announced {
        None => true,
        // `Ed25519` (RFC 9864) is not yet a word of the library; such a key has no other use.
        Some(KeyAlgorithm::UNKNOWN_ALGORITHM) => algorithm == Algorithm::EdDSA,
        Some(announced) => announced == KeyAlgorithm::from(algorithm),
    }
}

/// The key, and every algorithm that its kind and curve go with.
fn read(parameters: &AlgorithmParameters) -> Result<(DecodingKey, &'static [Algorithm]), Unusable> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    match parameters {
        AlgorithmParameters::RSA(rsa) => Ok((read_rsa(&rsa.n, &rsa.e)?, &[RS256, RS384, RS512, PS256, PS384, PS512])),
        AlgorithmParameters::EllipticCurve(ec) => {
            let (bytes, algorithms): (usize, &'static [Algorithm]) = match ec.curve {
                EllipticCurve::P256 => (32, &[ES256]),
                EllipticCurve::P384 => (48, &[ES384]),
                _ => return Err(Unusable::UnknownKind),
            };
            // The library joins the two without looking at their lengths.
            if decode(&ec.x)?.len() != bytes || decode(&ec.y)?.len() != bytes {
                return Err(Unusable::Malformed);
            }
            let key = DecodingKey::from_ec_components(&ec.x, &ec.y).map_err(|_| Unusable::Malformed)?;
            Ok((key, algorithms))
        }
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
            let bytes: [u8; 32] = decode(&okp.x)?.try_into().map_err(|_| Unusable::Malformed)?;
            let key = VerifyingKey::from_bytes(&bytes).map_err(|_| Unusable::Malformed)?;
            if key.is_weak() {
                return Err(Unusable::Weak);
            }
            Ok((DecodingKey::from_ed_der(&bytes), &[EdDSA]))
        }
        AlgorithmParameters::OctetKey(_) => Err(Unusable::Symmetric),
        _ => Err(Unusable::UnknownKind),
    }
}

fn read_rsa(modulus: &str, exponent: &str) -> Result<DecodingKey, Unusable> {
    let (modulus, exponent) = (decode(modulus)?, decode(exponent)?);
    // Some issuers write a sign byte before the number.
    let (modulus, exponent) = (without_zeros(&modulus), without_zeros(&exponent));
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
    let odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    // An exponent of one would verify whatever anybody writes.
    if !(2048..=8192).contains(&bits) || !odd(modulus) || !odd(exponent) || exponent == [1] || exponent.len() > 4 {
        return Err(Unusable::Weak);
    }
    Ok(DecodingKey::from_rsa_raw_components(modulus, exponent))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    &number[start..]
}

fn decode(text: &str) -> Result<Vec<u8>, Unusable> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Unusable::Malformed)
}

/// Whether an issuer may list it: a shared secret would have to live here, and could forge.
pub fn is_asymmetric(algorithm: Algorithm) -> bool {
    algorithm.family() != AlgorithmFamily::Hmac
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotForSignatures => "not meant for signatures (use, key_ops)",
            Self::UnknownKind => "unknown kty or crv",
            Self::Symmetric => "a shared secret (kty oct)",
            Self::AlgorithmNotAllowed => "goes with none of the issuer's algorithms",
            Self::Malformed => "malformed",
            Self::Weak => "too weak",
            Self::KeyIdTooLong => "a kid of more than 256 characters",
        })
    }
}

impl fmt::Display for SkippedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key_id {
            Some(key_id) => write!(f, "{key_id:?}: {}", self.reason),
            None => write!(f, "(no kid): {}", self.reason),
        }
    }
}
