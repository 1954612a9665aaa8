//! Sealed values in browser cookies: encrypted and authenticated with AES-256-GCM.
//!
//! A sealed value has a purpose, a place and an expiry. Every node of the place with the same keys can open it. The first
//! key seals and all keys open, so keys can be replaced one by one.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Prefix of a key file.
const FILE_PREFIX: &str = "lastmile-seal:";
const VERSION: u8 = 2;
const KEY_ID_LEN: usize = 4;
const EXPIRES_LEN: usize = 8;
/// Longest sealed text, in bytes: browsers store no larger cookie.
const MAX_SEALED_BYTES: usize = 4096;

/// Purpose of a sealed value. A value with another purpose does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The session after a login.
    Session,
    /// A login until its callback.
    PendingLogin,
}

/// Why a sealed text does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsealable {
    /// Sealed with an unknown key, modified, for another purpose, or not a sealed value.
    NotOurs,
    Expired,
}

/// A secret of 256 bits. Clones share the memory.
#[derive(Clone)]
pub struct SealKey(Arc<Zeroizing<[u8; 32]>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a seal key; create one with `lastmile keygen --seal -o FILE`")]
pub struct NotASealKey;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system returned no random bytes")]
pub struct NoRandomness;

/// Seals with its first key, opens with all of them.
pub struct Sealer {
    keys: Vec<([u8; KEY_ID_LEN], RandomizedNonceKey)>,
    place: String,
}

impl Sealer {
    /// `place` is where values are valid: the store that knows which of them ended. `None` without a key.
    pub fn new(keys: &[SealKey], place: impl Into<String>) -> Option<Self> {
        // The library accepts every key of the right length.
        let keys: Vec<_> = keys.iter().filter_map(SealKey::prepare).collect();
        (!keys.is_empty()).then(|| Self { keys, place: place.into() })
    }

    /// Returns base64url of version, key id, nonce, and the encrypted expiry and content. `expires` in seconds since
    /// 1970.
    pub fn seal(&self, purpose: Purpose, content: &[u8], expires: u64) -> Result<String, NoRandomness> {
        let (id, key) = self.keys.first().ok_or(NoRandomness)?;
        let mut secret = expires.to_be_bytes().to_vec();
        secret.extend_from_slice(content);
        let nonce =
            key.seal_in_place_append_tag(self.associated_data(purpose), &mut secret).map_err(|_| NoRandomness)?;
        let sealed = [&[VERSION][..], id, nonce.as_ref(), &secret].concat();
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// The content, if it has this purpose and `now` is before its expiry.
    pub fn open(&self, purpose: Purpose, sealed: &str, now: u64) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        const NOT_OURS: Unsealable = Unsealable::NotOurs;
        if sealed.len() > MAX_SEALED_BYTES {
            return Err(NOT_OURS);
        }
        let sealed = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| NOT_OURS)?;
        let (&[VERSION], rest) = sealed.split_at_checked(1).ok_or(NOT_OURS)? else { return Err(NOT_OURS) };
        let (id, rest) = rest.split_at_checked(KEY_ID_LEN).ok_or(NOT_OURS)?;
        let (nonce, secret) = rest.split_at_checked(NONCE_LEN).ok_or(NOT_OURS)?;
        let mut of_id = self.keys.iter().filter(|(known, _)| known == id);
        let opened = of_id.find_map(|(_, key)| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut secret = Zeroizing::new(secret.to_vec());
            let len = key.open_in_place(nonce, self.associated_data(purpose), &mut secret).ok()?.len();
            secret.truncate(len);
            Some(secret)
        });
        let opened = opened.ok_or(NOT_OURS)?;
        let (expires, content) = opened.split_first_chunk::<EXPIRES_LEN>().ok_or(NOT_OURS)?;
        if now >= u64::from_be_bytes(*expires) {
            return Err(Unsealable::Expired);
        }
        Ok(Zeroizing::new(content.to_vec()))
    }

    fn associated_data(&self, purpose: Purpose) -> Aad<Vec<u8>> {
        Aad::from(format!("lastmile seal {VERSION}: {} at {}", purpose.name(), self.place).into_bytes())
    }
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::PendingLogin => "pending login",
        }
    }
}

impl SealKey {
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut()).map_err(|_| NoRandomness)?;
        Ok(Self(Arc::new(bytes)))
    }

    /// Parses the output of [`SealKey::to_text`].
    pub fn parse(text: &str) -> Result<Self, NotASealKey> {
        let encoded = text.trim().strip_prefix(FILE_PREFIX).ok_or(NotASealKey)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_| NotASealKey)?);
        let bytes = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| NotASealKey)?;
        Ok(Self(Arc::new(Zeroizing::new(bytes))))
    }

    /// The line of a key file, without a newline.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{FILE_PREFIX}{}", URL_SAFE_NO_PAD.encode(**self.0)))
    }

    /// The secret itself, for keys of other purposes that are derived from it.
    pub fn secret(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key with its id: the first bytes of a hash, which reveal nothing about the key.
    fn prepare(&self) -> Option<([u8; KEY_ID_LEN], RandomizedNonceKey)> {
        let digest = Sha256::new().chain_update(b"lastmile seal key id").chain_update(**self.0).finalize();
        let id = *digest.first_chunk::<KEY_ID_LEN>()?;
        Some((id, RandomizedNonceKey::new(&AES_256_GCM, self.0.as_slice()).ok()?))
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(number: usize) -> Vec<SealKey> {
        (0..number).map(|_| SealKey::generate().unwrap()).collect()
    }

    fn open(sealer: &Sealer, sealed: &str) -> Result<Vec<u8>, Unsealable> {
        sealer.open(Purpose::Session, sealed, 99).map(|content| content.to_vec())
    }

    #[test]
    fn opens_until_expiry_for_its_purpose() {
        let sealer = Sealer::new(&keys(1), "a").unwrap();
        let sealed = sealer.seal(Purpose::Session, b"alice", 100).unwrap();
        assert_eq!(open(&sealer, &sealed), Ok(b"alice".to_vec()));
        assert!(!sealed.contains("YWxpY2"));
        assert_eq!(sealer.open(Purpose::Session, &sealed, 100).err(), Some(Unsealable::Expired));
        assert_eq!(sealer.open(Purpose::PendingLogin, &sealed, 99).err(), Some(Unsealable::NotOurs));
        assert_ne!(
            sealer.seal(Purpose::Session, b"alice", 100).unwrap(),
            sealed,
            "every sealed value has its own nonce"
        );
    }

    #[test]
    fn value_of_another_place_does_not_open() {
        let key = keys(1);
        let [here, there] = ["a", "b"].map(|place| Sealer::new(&key, place).unwrap());
        let sealed = here.seal(Purpose::Session, b"alice", 100).unwrap();
        assert!(open(&here, &sealed).is_ok());
        assert_eq!(open(&there, &sealed), Err(Unsealable::NotOurs));
    }

    #[test]
    fn modified_values_do_not_open() {
        let sealer = Sealer::new(&keys(1), "a").unwrap();
        let sealed = sealer.seal(Purpose::Session, b"alice", 100).unwrap();
        for at in 0..sealed.len() {
            for bit in 0..7 {
                let mut bytes = sealed.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let changed = String::from_utf8(bytes).unwrap();
                assert_eq!(open(&sealer, &changed), Err(Unsealable::NotOurs), "bit {bit} of character {at}");
            }
            assert_eq!(open(&sealer, &sealed[..at]), Err(Unsealable::NotOurs), "cut at {at}");
        }
        for rubbish in ["", "AQ", " ", "é", &"A".repeat(5000)] {
            assert_eq!(open(&sealer, rubbish), Err(Unsealable::NotOurs), "{rubbish:.10}");
        }
    }

    #[test]
    fn keys_are_replaced_one_by_one() {
        let all = keys(2);
        let (old, both) = (Sealer::new(&all[1..], "a").unwrap(), Sealer::new(&all, "a").unwrap());
        let before = old.seal(Purpose::Session, b"alice", 100).unwrap();
        assert!(open(&both, &before).is_ok());
        let after = both.seal(Purpose::Session, b"alice", 100).unwrap();
        assert_eq!(open(&old, &after), Err(Unsealable::NotOurs), "the first key seals");
        assert_eq!(open(&Sealer::new(&all[..1], "a").unwrap(), &before), Err(Unsealable::NotOurs));
        assert!(Sealer::new(&[], "a").is_none());
    }

    #[test]
    fn key_file_round_trip() {
        let key = SealKey::generate().unwrap();
        let text = key.to_text();
        let sealed = Sealer::new(std::slice::from_ref(&key), "a").unwrap().seal(Purpose::Session, b"x", 100).unwrap();
        let again = SealKey::parse(&format!("{}\n", *text)).unwrap();
        assert!(open(&Sealer::new(&[again], "a").unwrap(), &sealed).is_ok());
        assert_eq!(format!("{key:?}"), "SealKey");
        for bad in ["", "lastmile-seal:", "lastmile-seal:AAAA", &text[14..], &text[..text.len() - 1]] {
            assert_eq!(SealKey::parse(bad).err(), Some(NotASealKey));
        }
    }
}
