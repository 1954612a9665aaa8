//! Ed25519 keys in OpenSSH form: lines of `.pub` files and `openssh-key-v1` containers.
//!
//! OpenSSH's PROTOCOL.key describes the container, RFC 8709 section 4 the blobs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::error::KeyError;

const ALGORITHM: &str = "ssh-ed25519";
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// The wire form of a public key: two strings, the algorithm and the 32 bytes.
pub(super) fn public_blob(key: &VerifyingKey) -> Vec<u8> {
    let mut blob = Vec::with_capacity(51);
    for part in [ALGORITHM.as_bytes(), key.as_bytes()] {
        blob.extend_from_slice(&(part.len() as u32).to_be_bytes());
        blob.extend_from_slice(part);
    }
    blob
}

pub(super) fn public_line(key: &VerifyingKey, comment: &str) -> String {
    format!("{ALGORITHM} {} {comment}", STANDARD.encode(public_blob(key))).trim_end().to_owned()
}

/// Parses one line of a `.pub` file. Gives the 32 bytes of the key, unchecked.
pub(super) fn parse_public_line(text: &str) -> Result<[u8; 32], KeyError> {
    if text.lines().count() > 1 {
        return Err(KeyError::Malformed("it has more than one line"));
    }
    let mut fields = text.split_ascii_whitespace();
    match fields.next() {
        Some(ALGORITHM) => {}
        Some(other) if ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| other.starts_with(prefix)) => {
            return Err(KeyError::NotEd25519);
        }
        _ => return Err(KeyError::NotAKey),
    }
    let blob = fields.next().and_then(|field| STANDARD.decode(field).ok());
    let blob = blob.ok_or(KeyError::Malformed("the part after `ssh-ed25519` is not base64"))?;
    read_public_blob(&blob)
}

/// Parses the PEM text of an `openssh-key-v1` container with one key and no passphrase.
pub(super) fn parse_private_pem(text: &str) -> Result<SigningKey, KeyError> {
    let damaged = KeyError::Malformed("it is not an OpenSSH private key");
    let body = text
        .strip_prefix("-----BEGIN OPENSSH PRIVATE KEY-----")
        .and_then(|rest| rest.strip_suffix("-----END OPENSSH PRIVATE KEY-----"))
        .ok_or(damaged.clone())?;
    let mut encoded = Zeroizing::new(body.to_owned());
    encoded.retain(|c| !c.is_ascii_whitespace());
    let container = Zeroizing::new(STANDARD.decode(encoded.as_bytes()).map_err(|_| damaged)?);
    read_container(&container)
}

fn read_container(container: &[u8]) -> Result<SigningKey, KeyError> {
    let mut outer = Reader(container.strip_prefix(MAGIC).ok_or(TRUNCATED)?);
    let (cipher, kdf, _options) = (outer.string()?, outer.string()?, outer.string()?);
    if cipher != b"none" || kdf != b"none" {
        return Err(KeyError::Encrypted);
    }
    if outer.u32()? != 1 {
        return Err(KeyError::Malformed("the file must contain exactly one key"));
    }
    let public_blob = outer.string()?;
    let mut inner = Reader(outer.string()?);

    // Two equal numbers check the passphrase on decryption. Without a passphrase they are plain.
    if inner.u32()? != inner.u32()? {
        return Err(KeyError::Malformed("its check numbers differ"));
    }
    if inner.string()? != ALGORITHM.as_bytes() {
        return Err(KeyError::NotEd25519);
    }
    let public = inner.string()?;
    let pair = inner.string()?;
    let (seed, public_again) = pair.split_first_chunk::<32>().ok_or(TRUNCATED)?;
    let key = SigningKey::from_bytes(seed);
    let expected = key.verifying_key();
    let matches = [public, public_again].iter().all(|half| *half == expected.as_bytes().as_slice());
    if !matches || read_public_blob(public_blob)? != *expected.as_bytes() {
        return Err(KeyError::Malformed("its private and public keys do not match"));
    }
    Ok(key)
}

fn read_public_blob(blob: &[u8]) -> Result<[u8; 32], KeyError> {
    let mut reader = Reader(blob);
    if reader.string()? != ALGORITHM.as_bytes() {
        return Err(KeyError::NotEd25519);
    }
    let key = reader.string()?.try_into().map_err(|_| KeyError::Malformed("an ed25519 key has 32 bytes"))?;
    if reader.0.is_empty() { Ok(key) } else { Err(KeyError::Malformed("it has bytes after the key")) }
}

const TRUNCATED: KeyError = KeyError::Malformed("it ends too early");

/// Reads the length-prefixed strings of RFC 4251 section 5.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn u32(&mut self) -> Result<u32, KeyError> {
        let (number, rest) = self.0.split_first_chunk::<4>().ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*number))
    }

    fn string(&mut self) -> Result<&'a [u8], KeyError> {
        let length = usize::try_from(self.u32()?).map_err(|_| TRUNCATED)?;
        let (string, rest) = self.0.split_at_checked(length).ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(string)
    }
}
