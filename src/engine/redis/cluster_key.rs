//! The cluster key: seals what nodes keep in Redis, and proves that a node wrote it.
//!
//! Each purpose has its own key, derived by HKDF-SHA-256 (RFC 5869). Values and messages are sealed with AES-256-GCM-SIV
//! (RFC 8452), which stays safe when a random nonce repeats. Publications carry an HMAC-SHA-256 and stay readable.

use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::hmac;
use bytes::{Buf, Bytes};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// First byte of sealed bytes. No node of a release without cluster keys began a message with it.
const SEALED: u8 = 1;

const KEY_ID_LEN: usize = 4;
const EXPIRES_LEN: usize = 8;

/// Without an expiry.
pub const NEVER: u64 = u64::MAX;

/// The nonce of values that nodes compare, so that equal ones have equal bytes. The cipher permits that.
const FIXED_NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

/// Largest difference of two nodes' clocks that still lets them understand each other. Signatures permit 60 s to each side.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(120);

/// The first half of an HMAC-SHA-256.
pub type Mac = [u8; 16];

/// A secret of 256 bits from `engine.cluster_key`.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret(Zeroizing<[u8; 32]>);

/// `engine.unauthenticated`: how far the nodes are in an upgrade to a cluster key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unauthenticated {
    Refuse,
    /// Accepts what nodes of earlier releases write.
    Accept,
    /// Accepts it, and writes so that nodes of earlier releases understand it.
    Write,
}

/// Sealed bytes open only for the purpose and the name that they were sealed for.
#[derive(Clone, Copy)]
pub enum Purpose {
    /// A name of the shared store.
    Value,
    /// An entry of the shared store's log.
    LogEntry,
    /// The status of a node.
    Status,
    /// A message to a node.
    Message,
}

/// The bytes were not written by a node for this purpose and name, or they have expired.
#[derive(Debug, PartialEq, Eq)]
pub struct NotSealed;

/// The keys of all purposes: the first secret seals and signs, all secrets open and verify.
pub struct ClusterKeys(Vec<DerivedKeys>);

struct DerivedKeys {
    id: [u8; KEY_ID_LEN],
    value: LessSafeKey,
    log_entry: LessSafeKey,
    status: LessSafeKey,
    message: LessSafeKey,
    publication: hmac::Key,
}

impl ClusterSecret {
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }
}

impl ClusterKeys {
    /// `None` without a secret.
    pub fn new(secrets: &[ClusterSecret]) -> Option<Self> {
        // The library derives keys of these lengths from every secret.
        let keys: Vec<_> = secrets.iter().filter_map(|secret| DerivedKeys::of(secret).ok()).collect();
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// Seals `content` for a name, until a time in milliseconds since 1970.
    pub fn seal(&self, purpose: Purpose, name: &str, content: &[u8], expires: u64) -> Result<Vec<u8>, Unspecified> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| Unspecified)?;
        self.seal_with(nonce, purpose, name, content, expires)
    }

    /// Seals a value that nodes compare with the stored one: equal content has equal bytes.
    pub fn seal_comparable(&self, name: &str, content: &[u8]) -> Result<Vec<u8>, Unspecified> {
        self.seal_with(FIXED_NONCE, Purpose::Value, name, content, NEVER)
    }

    fn seal_with(
        &self,
        nonce: [u8; NONCE_LEN],
        purpose: Purpose,
        name: &str,
        content: &[u8],
        expires: u64,
    ) -> Result<Vec<u8>, Unspecified> {
        let keys = self.0.first().ok_or(Unspecified)?;
        let mut secret = Vec::with_capacity(EXPIRES_LEN + content.len() + AES_256_GCM_SIV.tag_len());
        secret.extend_from_slice(&expires.to_be_bytes());
        secret.extend_from_slice(content);
        let key = keys.of_purpose(purpose);
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name), &mut secret)?;
        Ok([&[SEALED][..], &keys.id, &nonce, &secret].concat())
    }

    /// The content that a node sealed for this purpose and name, if `now` is before its expiry.
    pub fn open(&self, purpose: Purpose, name: &str, sealed: &[u8], now: u64) -> Result<Bytes, NotSealed> {
        let (&[SEALED], rest) = sealed.split_at_checked(1).ok_or(NotSealed)? else { return Err(NotSealed) };
        let (id, rest) = rest.split_at_checked(KEY_ID_LEN).ok_or(NotSealed)?;
        let (nonce, secret) = rest.split_at_checked(NONCE_LEN).ok_or(NotSealed)?;
        let open = |keys: &DerivedKeys| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut secret = secret.to_vec();
            let opened = keys.of_purpose(purpose).open_in_place(nonce, Aad::from(name), &mut secret).ok()?.len();
            secret.truncate(opened);
            Some(Bytes::from(secret))
        };
        let mut opened = self.0.iter().filter(|keys| keys.id == id).find_map(open).ok_or(NotSealed)?;
        if opened.try_get_u64().map_err(|_| NotSealed)? <= now {
            return Err(NotSealed);
        }
        Ok(opened)
    }

    pub fn sign(&self, text: &[u8]) -> Result<Mac, Unspecified> {
        Ok(mac(&self.0.first().ok_or(Unspecified)?.publication, text))
    }

    /// Whether a node signed `text`.
    pub fn verify(&self, text: &[u8], tag: &Mac) -> bool {
        self.0.iter().any(|keys| bool::from(mac(&keys.publication, text).ct_eq(tag)))
    }
}

fn mac(key: &hmac::Key, text: &[u8]) -> Mac {
    let tag = hmac::sign(key, text);
    std::array::from_fn(|at| tag.as_ref().get(at).copied().unwrap_or_default())
}

impl DerivedKeys {
    fn of(secret: &ClusterSecret) -> Result<Self, Unspecified> {
        let secret = Salt::new(HKDF_SHA256, b"lastmile cluster key 1").extract(secret.0.as_slice());
        let cipher = |label: &[u8]| Self::cipher(&secret, label);
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(derive(&secret, b"id")?.get(..KEY_ID_LEN).ok_or(Unspecified)?);
        Ok(Self {
            id,
            value: cipher(b"value")?,
            log_entry: cipher(b"log entry")?,
            status: cipher(b"status")?,
            message: cipher(b"message")?,
            publication: hmac::Key::new(hmac::HMAC_SHA256, &*derive(&secret, b"publication")?),
        })
    }

    fn cipher(secret: &Prk, label: &[u8]) -> Result<LessSafeKey, Unspecified> {
        Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, &*derive(secret, label)?)?))
    }

    fn of_purpose(&self, purpose: Purpose) -> &LessSafeKey {
        match purpose {
            Purpose::Value => &self.value,
            Purpose::LogEntry => &self.log_entry,
            Purpose::Status => &self.status,
            Purpose::Message => &self.message,
        }
    }
}

fn derive(secret: &Prk, label: &[u8]) -> Result<Zeroizing<[u8; 32]>, Unspecified> {
    let mut key = Zeroizing::new([0; 32]);
    secret.expand(&[label], HKDF_SHA256)?.fill(key.as_mut())?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secrets: &[u8]) -> ClusterKeys {
        ClusterKeys::new(&secrets.iter().map(|byte| ClusterSecret::new(&[*byte; 32])).collect::<Vec<_>>()).unwrap()
    }

    fn open(keys: &ClusterKeys, sealed: &[u8]) -> Result<Bytes, NotSealed> {
        keys.open(Purpose::Value, "a", sealed, 99)
    }

    #[test]
    fn sealed_for_purpose_name_and_time() {
        let keys = keys(&[1]);
        let sealed = keys.seal(Purpose::Value, "a", b"alice", 100).unwrap();
        assert_eq!(open(&keys, &sealed), Ok(Bytes::from("alice")));
        assert!(!sealed.windows(5).any(|part| part == b"alice"));
        assert_eq!(keys.open(Purpose::Value, "b", &sealed, 99), Err(NotSealed));
        assert_eq!(keys.open(Purpose::Message, "a", &sealed, 99), Err(NotSealed));
        assert_eq!(keys.open(Purpose::Value, "a", &sealed, 100), Err(NotSealed));
        assert_ne!(keys.seal(Purpose::Value, "a", b"alice", 100).unwrap(), sealed);
        let comparable = || keys.seal_comparable("a", b"alice").unwrap();
        assert_eq!(comparable(), comparable());
        assert_eq!(open(&keys, &comparable()), Ok(Bytes::from("alice")));
    }

    #[test]
    fn modified_and_foreign_bytes_do_not_open() {
        let keys = keys(&[1]);
        let sealed = keys.seal(Purpose::Value, "a", b"alice", 100).unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(open(&keys, &changed), Err(NotSealed), "byte {at}");
            assert_eq!(open(&keys, &sealed[..at]), Err(NotSealed), "cut at {at}");
        }
        assert_eq!(open(&self::keys(&[2]), &sealed), Err(NotSealed));
    }

    #[test]
    fn secrets_are_replaced_one_by_one() {
        let (old, both, new) = (keys(&[1]), keys(&[2, 1]), keys(&[2]));
        let (before, after) = (old.seal_comparable("a", b"x").unwrap(), both.seal_comparable("a", b"x").unwrap());
        assert!(open(&both, &before).is_ok() && open(&new, &after).is_ok());
        assert!(open(&old, &after).is_err() && open(&new, &before).is_err());
        let tag = old.sign(b"a").unwrap();
        assert!(both.verify(b"a", &tag) && !new.verify(b"a", &tag) && !old.verify(b"b", &tag));
        assert!(ClusterKeys::new(&[]).is_none());
    }
}
