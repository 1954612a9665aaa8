//! A publisher's private key, read from OpenSSH and PEM files.

mod openssh;

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::Error;
use openssh::encrypted;

/// An ed25519 private key. `Debug` shows only its fingerprint.
#[derive(Clone)]
pub struct Key {
    key: SigningKey,
    fingerprint: String,
}

impl Key {
    /// Reads a key file, see [`Key::from_text`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|error| Error::key(&format!("{}: {error}", path.display())))?;
        Self::from_text(&text).map_err(|error| Error::key(&format!("{}: {}", path.display(), error.message)))
    }

    /// Reads an OpenSSH private key (`ssh-keygen -t ed25519`) or PKCS#8 PEM (`lastmile keygen`, `openssl genpkey
    /// -algorithm ed25519`), without a passphrase.
    pub fn from_text(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let label = text.strip_prefix("-----BEGIN ").and_then(|rest| rest.split_once("-----")).map(|(label, _)| label);
        let key = match label {
            Some("PRIVATE KEY") => {
                SigningKey::from_pkcs8_pem(text).map_err(|_| Error::key("not an ed25519 private key (RFC 8410)"))?
            }
            Some("OPENSSH PRIVATE KEY") => openssh::read(text)?,
            Some("ENCRYPTED PRIVATE KEY") => return Err(encrypted()),
            Some(label) if label.ends_with("PRIVATE KEY") => return Err(Error::key("only ed25519 keys are supported")),
            Some("PUBLIC KEY") => return Err(public_key()),
            _ if text.starts_with("ssh-") => return Err(public_key()),
            _ => return Err(Error::key("this is no key; expected an OpenSSH or PEM private key")),
        };
        let public = openssh::public_blob(key.verifying_key().as_bytes());
        let fingerprint = format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(public)));
        Ok(Self { key, fingerprint })
    }

    /// `SHA256:…`, as `ssh-keygen -lf` prints it; signatures carry it as `keyid`.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Encodes the 32 bytes of the public key in base64.
    pub(crate) fn public(&self) -> String {
        STANDARD.encode(self.key.verifying_key())
    }

    /// Signs a text; the signature is in base64.
    pub(crate) fn sign(&self, text: &str) -> String {
        STANDARD.encode(self.key.sign(text.as_bytes()).to_bytes())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.fingerprint)
    }
}

fn public_key() -> Error {
    Error::key("this is a public key; expected the private key")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(name: &str) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/keys");
        std::fs::read_to_string(folder.join(name)).unwrap()
    }

    #[test]
    fn reads_openssh_and_openssl_keys() {
        let key = Key::from_text(&vector("throwaway-openssh")).unwrap();
        assert!(vector("throwaway-openssh.fingerprint").contains(key.fingerprint()));
        assert_eq!(format!("{key:?}"), format!("Key({})", key.fingerprint()));
        Key::from_text(&vector("throwaway-openssl.pem")).unwrap();
    }

    #[test]
    fn refuses_other_key_files() {
        for name in [
            "throwaway-openssh-encrypted",
            "throwaway-openssh.pub",
            "throwaway-openssl-encrypted.pem",
            "throwaway-openssl.pub.pem",
            "throwaway-rsa",
            "throwaway-x25519.pem",
        ] {
            assert_eq!(Key::from_text(&vector(name)).unwrap_err().code, "key", "{name}");
        }
        assert_eq!(Key::from_text("").unwrap_err().code, "key");
        assert_eq!(Key::from_file("/does/not/exist").unwrap_err().code, "key");
    }
}
