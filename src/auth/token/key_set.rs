//! A parsed JWK Set of one issuer (RFC 7517).
//!
//! Unusable keys are skipped, as RFC 7517 section 5 requires, and listed with the reason for `check`.

use std::collections::HashMap;
use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::VerifyingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};

use super::error::TokenError;

/// Most keys without `kid` that are tried for one token: each costs a signature check, which strangers can cause.
const MAX_UNNAMED_KEYS: usize = 4;

/// Longest `kid`, in characters.
const MAX_KEY_ID_CHARS: usize = 256;

/// A key with its algorithms, which depend on the key and never on the token (RFC 8725 section 3.1).
pub struct Key {
    pub decoding: DecodingKey,
    algorithms: Vec<Algorithm>,
    is_named: bool,
    parameters: AlgorithmParameters,
}

/// An unusable key of the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    pub key_id: Option<String>,
    pub reason: Unusable,
}

/// Why a key is unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("not for signatures (use, key_ops)")]
    NotForSignatures,
    #[error("unknown kty or crv")]
    UnknownKind,
    #[error("a shared secret (kty oct)")]
    Symmetric,
    #[error("supports none of the issuer's algorithms")]
    AlgorithmNotAllowed,
    /// Not base64url, or of the wrong length.
    #[error("malformed")]
    Malformed,
    /// An RSA key outside 2048 to 8192 bits, or an Ed25519 key for which signatures can be forged.
    #[error("too weak")]
    Weak,
    #[error("a kid of more than 256 characters")]
    KeyIdTooLong,
}

/// The usable keys by `kid`.
pub struct KeySet {
    keys: Vec<Key>,
    by_id: HashMap<String, Vec<usize>>,
    pub skipped: Vec<SkippedKey>,
}

/// Two keys with this `kid` support the same algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateKeyId(pub String);

impl KeySet {
    /// Keeps keys that support one of `algorithms`.
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

    /// The key that the token names. If it names none: the only matching key, or all matching keys without a name, which
    /// a rotation leaves side by side.
    pub fn find(&self, key_id: Option<&str>, algorithm: Algorithm) -> Result<Vec<&Key>, TokenError> {
        let Some(key_id) = key_id else {
            let matching: Vec<_> = self.keys.iter().filter(|key| key.supports(algorithm)).collect();
            let unnamed = matching.iter().filter(|key| !key.is_named).count();
            return match (matching.len(), unnamed) {
                (0, _) => Err(TokenError::AlgorithmNotAllowed),
                (1, _) => Ok(matching),
                (all, unnamed) if all == unnamed && all <= MAX_UNNAMED_KEYS => Ok(matching),
                _ => Err(TokenError::KeyAmbiguous),
            };
        };
        // A `kid` is compared only: never used in a path, URL or query.
        if key_id.chars().nth(MAX_KEY_ID_CHARS).is_some() {
            return Err(TokenError::KeyUnknown);
        }
        let named = self.by_id.get(key_id).ok_or(TokenError::KeyUnknown)?;
        let matching = named.iter().map(|index| &self.keys[*index]).find(|key| key.supports(algorithm));
        matching.map(|key| vec![key]).ok_or(TokenError::AlgorithmNotAllowed)
    }

    fn add(&mut self, key_id: Option<String>, key: Key) -> Result<(), DuplicateKeyId> {
        if let Some(key_id) = key_id {
            let named = self.by_id.entry(key_id.clone()).or_default();
            // Keys of different kinds may share a kid (RFC 7517 section 4.5), and some providers list a key twice.
            let rival = named.iter().find(|index| key.algorithms.iter().any(|one| self.keys[**index].supports(*one)));
            if let Some(known) = rival.map(|index| &mut self.keys[*index]) {
                if known.parameters != key.parameters {
                    return Err(DuplicateKeyId(key_id));
                }
                known.algorithms.extend(key.algorithms);
                return Ok(());
            }
            named.push(self.keys.len());
        }
        self.keys.push(key);
        Ok(())
    }
}

impl Key {
    fn new(jwk: &Jwk, allowed: &[Algorithm]) -> Result<Self, Unusable> {
        if jwk.common.key_id.as_ref().is_some_and(|id| id.chars().nth(MAX_KEY_ID_CHARS).is_some()) {
            return Err(Unusable::KeyIdTooLong);
        }
        let is_for_signatures =
            jwk.common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
        let operations = jwk.common.key_operations.as_ref();
        if !is_for_signatures || operations.is_some_and(|all| !all.contains(&KeyOperations::Verify)) {
            return Err(Unusable::NotForSignatures);
        }
        let (decoding, possible) = read(&jwk.algorithm)?;
        let algorithms: Vec<_> = possible
            .iter()
            .copied()
            .filter(|one| allowed.contains(one) && allows(jwk.common.key_algorithm, *one))
            .collect();
        if algorithms.is_empty() {
            return Err(Unusable::AlgorithmNotAllowed);
        }
        Ok(Self { decoding, algorithms, is_named: jwk.common.key_id.is_some(), parameters: jwk.algorithm.clone() })
    }

    fn supports(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }
}

/// Whether the `alg` of a key allows `algorithm`.
fn allows(key_algorithm: Option<KeyAlgorithm>, algorithm: Algorithm) -> bool {
    match key_algorithm {
        None => true,
        // The library does not know `Ed25519` (RFC 9864). Such a key has no other algorithm.
        Some(KeyAlgorithm::UNKNOWN_ALGORITHM) => algorithm == Algorithm::EdDSA,
        Some(key_algorithm) => key_algorithm == KeyAlgorithm::from(algorithm),
    }
}

/// The key, and the algorithms of its type and curve.
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
            // The library concatenates them without checking their lengths.
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
    // Some issuers write a sign byte first.
    let (modulus, exponent) = (without_zeros(&modulus), without_zeros(&exponent));
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
    let odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    // With an exponent of one, every signature can be forged.
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

/// Whether the algorithm uses a public key. A gateway with a shared secret could forge tokens.
pub fn is_asymmetric(algorithm: Algorithm) -> bool {
    algorithm.family() != AlgorithmFamily::Hmac
}

impl fmt::Display for SkippedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key_id {
            Some(key_id) => write!(f, "{key_id:?}: {}", self.reason),
            None => write!(f, "(no kid): {}", self.reason),
        }
    }
}
