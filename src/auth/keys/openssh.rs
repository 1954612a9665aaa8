//! The OpenSSH forms of an ed25519 key: the line of a `.pub` file and the `openssh-key-v1` container of a
//! private key (OpenSSH's PROTOCOL.key; the blobs are those of RFC 8709 section 4).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::{KeyError, public_key_from_bytes};

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

pub(super) fn parse_public_line(text: &str) -> Result<VerifyingKey, KeyError> {
    if text.lines().count() > 1 {
        return Err(KeyError::Malformed("there is more than one line, and one key is one line"));
    }
    let mut words = text.split_ascii_whitespace();
    match words.next() {
        Some(ALGORITHM) => {}
        Some(other) if ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| other.starts_with(prefix)) => {
            return Err(KeyError::NotEd25519);
        }
        _ => return Err(KeyError::NotAKey),
    }
    let blob = words.next().and_then(|word| STANDARD.decode(word).ok());
    let blob = blob.ok_or(KeyError::Malformed("the part after `ssh-ed25519` is not base64"))?;
    public_key_from_bytes(&read_public_blob(&blob)?)
}

/// Reads the PEM text of an `openssh-key-v1` container with one key and no passphrase.
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
        return Err(KeyError::Malformed("the file must hold exactly one key"));
    }
    let public_blob = outer.string()?;
    let mut inner = Reader(outer.string()?);

    // The same number twice: the check that a passphrase was right. There is none, so both are plain.
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
    let halves_agree = [public, public_again].iter().all(|half| *half == expected.as_bytes().as_slice());
    if !halves_agree || read_public_blob(public_blob)? != *expected.as_bytes() {
        return Err(KeyError::Malformed("its private and public halves do not belong together"));
    }
    Ok(key)
}

fn read_public_blob(blob: &[u8]) -> Result<[u8; 32], KeyError> {
    let mut reader = Reader(blob);
    if reader.string()? != ALGORITHM.as_bytes() {
        return Err(KeyError::NotEd25519);
    }
    let key = reader.string()?.try_into().map_err(|_| KeyError::Malformed("an ed25519 key has 32 bytes"))?;
    if reader.0.is_empty() { Ok(key) } else { Err(KeyError::Malformed("something follows the key")) }
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
