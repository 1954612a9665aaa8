//! Ed25519 keys in OpenSSH and PEM files, and their fingerprints.
//!
//! Every public key passes [`public_key_from_bytes`], which refuses weak keys.

mod error;
mod openssh;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePublicKey, EncodePrivateKey, Error as Pkcs8Error, KeypairBytes, PublicKeyBytes};
use ed25519_dalek::{SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

pub use error::KeyError;

/// `SHA256:…` as `ssh-keygen -lf` prints it: SHA-256 over the OpenSSH wire form of the public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub fn of(key: &VerifyingKey) -> Self {
        Self(Sha256::digest(openssh::public_blob(key)).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHA256:{}", STANDARD_NO_PAD.encode(self.0))
    }
}

/// Parses an OpenSSH line (`ssh-ed25519 AAAA… comment`) or a PEM public key (RFC 8410, `openssl pkey -pubout`).
pub fn parse_public_key(text: &str) -> Result<VerifyingKey, KeyError> {
    let text = text.trim();
    match pem_label(text) {
        Some("PUBLIC KEY") => {
            let PublicKeyBytes(bytes) = PublicKeyBytes::from_public_key_pem(text).map_err(|error| match error {
                ed25519_dalek::pkcs8::spki::Error::OidUnknown { .. } => KeyError::NotEd25519,
                _ => KeyError::Malformed("it is not a PEM public key (RFC 8410)"),
            })?;
            public_key_from_bytes(&bytes)
        }
        Some(label) if label.ends_with("PRIVATE KEY") => Err(KeyError::PrivateGiven),
        Some(label) if label.ends_with("PUBLIC KEY") => Err(KeyError::NotEd25519),
        Some(_) => Err(KeyError::NotAKey),
        None => public_key_from_bytes(&openssh::parse_public_line(text)?),
    }
}

/// Parses a PKCS#8 PEM file (`openssl genpkey -algorithm ed25519`; versions 1 and 2) or an OpenSSH private key
/// without a passphrase (`ssh-keygen -t ed25519`).
pub fn parse_private_key(text: &str) -> Result<SigningKey, KeyError> {
    let text = text.trim();
    match pem_label(text) {
        Some("PRIVATE KEY") => {
            use ed25519_dalek::pkcs8::DecodePrivateKey;
            SigningKey::from_pkcs8_pem(text).map_err(|error| match error {
                Pkcs8Error::PublicKey(ed25519_dalek::pkcs8::spki::Error::OidUnknown { .. }) => KeyError::NotEd25519,
                _ => KeyError::Malformed("it is not a PKCS#8 private key (RFC 8410)"),
            })
        }
        Some("OPENSSH PRIVATE KEY") => openssh::parse_private_pem(text),
        Some("ENCRYPTED PRIVATE KEY") => Err(KeyError::Encrypted),
        Some(label) if label.ends_with("PRIVATE KEY") => Err(KeyError::NotEd25519),
        Some(label) if label.ends_with("PUBLIC KEY") => Err(KeyError::PublicGiven),
        None if text.starts_with("ssh-") => Err(KeyError::PublicGiven),
        _ => Err(KeyError::NotAKey),
    }
}

/// Parses the `Display` form of a [`Fingerprint`].
pub fn parse_fingerprint(text: &str) -> Result<Fingerprint, KeyError> {
    let encoded = text.strip_prefix("SHA256:").ok_or(KeyError::NotAFingerprint)?;
    let bytes = STANDARD_NO_PAD.decode(encoded).map_err(|_| KeyError::NotAFingerprint)?;
    bytes.try_into().map(Fingerprint).map_err(|_| KeyError::NotAFingerprint)
}

/// Decodes the 32 bytes of RFC 8032 section 5.1.2. Refuses non-canonical encodings, and points of small order: for
/// those a signature exists that verifies with almost every message.
pub fn public_key_from_bytes(bytes: &[u8; 32]) -> Result<VerifyingKey, KeyError> {
    let key =
        VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Malformed("its bytes are not a point of the curve"))?;
    let canonical = key.to_edwards().compress().to_bytes() == *bytes;
    if key.is_weak() || !canonical { Err(KeyError::Weak) } else { Ok(key) }
}

pub fn generate() -> Result<SigningKey, KeyError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(|_| KeyError::NoRandomness)?;
    Ok(SigningKey::from_bytes(&seed))
}

/// PKCS#8 version 1, without the public key: every OpenSSL reads this form.
pub fn to_pkcs8_pem(key: &SigningKey) -> Result<Zeroizing<String>, KeyError> {
    let mut pair = KeypairBytes { secret_key: key.to_bytes(), public_key: None };
    let pem = pair.to_pkcs8_pem(LineEnding::LF);
    zeroize::Zeroize::zeroize(&mut pair.secret_key);
    pem.map_err(|_| KeyError::Malformed("it cannot be written as PKCS#8"))
}

/// The line of a `.pub` file, without a newline.
pub fn to_openssh_public(key: &VerifyingKey, name: &str) -> String {
    openssh::public_line(key, name)
}

/// The label of a PEM text (RFC 7468); `None` if the text is not PEM.
fn pem_label(text: &str) -> Option<&str> {
    let (label, _) = text.strip_prefix("-----BEGIN ")?.split_once("-----")?;
    Some(label)
}

#[cfg(test)]
pub(crate) mod tests;
