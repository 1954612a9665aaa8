//! The `openssh-key-v1` container of a private key (OpenSSH's PROTOCOL.key) with one ed25519 key and no passphrase.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use crate::error::Error;

const ALGORITHM: &[u8] = b"ssh-ed25519";
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// Encodes a public key for the wire (RFC 8709 section 4): algorithm and 32 bytes, each with its length.
pub(super) fn public_blob(key: &[u8; 32]) -> Vec<u8> {
    let mut blob = Vec::with_capacity(51);
    for part in [ALGORITHM, key.as_slice()] {
        blob.extend_from_slice(&(part.len() as u32).to_be_bytes());
        blob.extend_from_slice(part);
    }
    blob
}

/// Parses the PEM text.
pub(super) fn read(text: &str) -> Result<SigningKey, Error> {
    let body = text
        .strip_prefix("-----BEGIN OPENSSH PRIVATE KEY-----")
        .and_then(|rest| rest.strip_suffix("-----END OPENSSH PRIVATE KEY-----"))
        .ok_or_else(truncated)?;
    let mut encoded = Zeroizing::new(body.to_owned());
    encoded.retain(|c| !c.is_ascii_whitespace());
    let container = STANDARD.decode(encoded.as_bytes()).map(Zeroizing::new).map_err(|_| truncated())?;
    let mut outer = Reader(container.strip_prefix(MAGIC).ok_or_else(truncated)?);
    let (cipher, kdf, _options) = (outer.string()?, outer.string()?, outer.string()?);
    if cipher != b"none" || kdf != b"none" {
        return Err(encrypted());
    }
    if outer.u32()? != 1 {
        return Err(Error::key("the file must hold exactly one key"));
    }
    let public = outer.string()?;
    let mut inner = Reader(outer.string()?);
    // Both check numbers are equal after decryption. Without a passphrase they are in plain text.
    if inner.u32()? != inner.u32()? {
        return Err(Error::key("check numbers differ"));
    }
    if inner.string()? != ALGORITHM {
        return Err(Error::key("only ed25519 keys are supported"));
    }
    let public_inside = inner.string()?;
    let pair = inner.string()?;
    let (seed, public_again) = pair.split_first_chunk::<32>().ok_or_else(truncated)?;
    let key = SigningKey::from_bytes(seed);
    let expected = key.verifying_key();
    let halves_agree = [public_inside, public_again].iter().all(|half| *half == expected.as_bytes().as_slice());
    if halves_agree && public == public_blob(expected.as_bytes()) {
        Ok(key)
    } else {
        Err(Error::key("private and public key do not match"))
    }
}

pub(super) fn encrypted() -> Error {
    Error::key("encrypted keys are not supported; remove the passphrase with `ssh-keygen -p -N '' -f FILE`")
}

fn truncated() -> Error {
    Error::key("truncated or malformed OpenSSH private key")
}

/// Reads the length-prefixed strings of RFC 4251 section 5.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn u32(&mut self) -> Result<u32, Error> {
        let (number, rest) = self.0.split_first_chunk::<4>().ok_or_else(truncated)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*number))
    }

    fn string(&mut self) -> Result<&'a [u8], Error> {
        let length = usize::try_from(self.u32()?).map_err(|_| truncated())?;
        let (string, rest) = self.0.split_at_checked(length).ok_or_else(truncated)?;
        self.0 = rest;
        Ok(string)
    }
}
