//! `Idempotency-Key`: a publisher that did not hear the answer may ask again and publishes once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::MutexGuard;

use crate::auth::keys::Fingerprint;
use crate::broker::SharedStore;
use crate::protocol::{ErrorCode, Refusal};

/// draft-ietf-httpapi-idempotency-key-header section 2.
pub const HEADER: http::HeaderName = http::HeaderName::from_static("idempotency-key");

/// A request whose node died is forgotten after this.
const IN_PROGRESS_TTL: Duration = Duration::from_secs(10);

/// How long a retry waits for a request that is under way on another node, and how often it looks.
const IN_PROGRESS_TIMEOUT: Duration = Duration::from_secs(5);
const IN_PROGRESS_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// Bounds of the answers that are kept for one publisher.
#[derive(Clone, Copy, Debug)]
pub struct IdempotencyLimits {
    pub max_keys: usize,
    /// How long an answer is kept.
    pub keep: Duration,
}

/// What publishers were answered, each bounded in number and age.
pub struct Idempotency {
    limits: IdempotencyLimits,
    stores: Mutex<HashMap<Fingerprint, Store>>,
}

/// The answers of one publisher.
#[derive(Default)]
struct Store {
    slots: HashMap<Hash, Arc<Slot>>,
    order: VecDeque<(Instant, Hash)>,
}

type Hash = [u8; 32];

/// The place of one key's answer.
pub struct Slot {
    request: Hash,
    answer: tokio::sync::Mutex<Option<Bytes>>,
}

impl Idempotency {
    pub fn new(limits: IdempotencyLimits) -> Self {
        Self { limits, stores: Mutex::default() }
    }

    /// How long an answer is kept.
    pub fn keep(&self) -> Duration {
        self.limits.keep
    }

    /// `request` is everything that must be the same when a key is used again.
    pub fn slot(
        &self,
        publisher: Fingerprint,
        key: &str,
        request: &[&[u8]],
        now: Instant,
    ) -> Result<Arc<Slot>, Refusal> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(Refusal::new(ErrorCode::Malformed, "an Idempotency-Key has 1 to 255 bytes"));
        }
        let (key, request) = (hash(&[key.as_bytes()]), hash(request));
        let IdempotencyLimits { max_keys, keep } = self.limits;
        let mut stores = self.stores.lock();
        let store = stores.entry(publisher).or_default();
        store.forget(now, keep, max_keys);
        match store.slots.get(&key) {
            Some(slot) if slot.request == request => Ok(slot.clone()),
            Some(_) => Err(ErrorCode::IdempotencyMismatch.into()),
            None => {
                store.forget(now, keep, max_keys - 1);
                let slot = Arc::new(Slot { request, answer: Default::default() });
                store.order.push_back((now, key));
                store.slots.insert(key, slot.clone());
                Ok(slot)
            }
        }
    }
}

impl Slot {
    /// The answer of the first time, once nobody else is about to fill it in; `None` if none succeeded yet.
    pub async fn answer(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.answer.lock().await
    }
}

/// The place of one key's answer in the memory of all nodes: the request's hash and, behind it, the answer.
pub struct SharedIdempotency {
    name: String,
    request: Hash,
}

impl SharedIdempotency {
    pub fn new(publisher: &Fingerprint, key: &str, slot: &Slot) -> Self {
        let name = URL_SAFE_NO_PAD.encode(hash(&[&publisher.0, key.as_bytes()]));
        Self { name: format!("idempotency:{name}"), request: slot.request }
    }

    /// Publishes, unless another node did or does: then its answer counts.
    pub async fn once(
        &self,
        shared: &dyn SharedStore,
        age: Duration,
        publishing: impl Future<Output = Result<Bytes, Refusal>>,
    ) -> Result<Bytes, Refusal> {
        let deadline = Instant::now() + IN_PROGRESS_TIMEOUT;
        while !shared.set_if_absent(&self.name, &self.request, IN_PROGRESS_TTL).await? {
            let Some(known) = shared.get(&self.name).await? else { continue };
            match known.split_at_checked(self.request.len()) {
                Some((request, _)) if request != self.request => return Err(ErrorCode::IdempotencyMismatch.into()),
                Some((_, answer)) if !answer.is_empty() => return Ok(known.slice(self.request.len()..)),
                _ if Instant::now() > deadline => {
                    let refusal = Refusal::new(ErrorCode::EngineUnavailable, "the first request is still under way");
                    return Err(refusal.retry_after(IN_PROGRESS_TIMEOUT));
                }
                _ => tokio::time::sleep(IN_PROGRESS_POLL_INTERVAL).await,
            }
        }
        match publishing.await {
            Ok(answer) => {
                // It was published: whatever becomes of this, the publisher is told so.
                let _ = shared.put(&self.name, &[&self.request[..], &answer].concat(), age).await;
                Ok(answer)
            }
            Err(refusal) => {
                // A retry tries anew.
                let _ = shared.get_and_delete(&self.name).await;
                Err(refusal)
            }
        }
    }
}

impl Store {
    /// Forgets what is too old, and the oldest until `max_keys` are left.
    fn forget(&mut self, now: Instant, age: Duration, max_keys: usize) {
        while let Some((at, key)) = self.order.front()
            && (now.duration_since(*at) >= age || self.order.len() > max_keys)
        {
            self.slots.remove(key);
            self.order.pop_front();
        }
    }
}

/// Each part goes in with its length, so that no two lists of parts are alike.
fn hash(parts: &[&[u8]]) -> Hash {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_are_bounded_in_number_and_age_and_bound_to_their_request() {
        let idempotency = Idempotency::new(IdempotencyLimits { max_keys: 2, keep: Duration::from_secs(10) });
        let start = Instant::now();
        let publish = async |key: &str, body: &[u8], seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            let slot = idempotency.slot(Fingerprint([7; 32]), key, &[body], now).map_err(|refusal| refusal.code)?;
            let before = slot.answer().await.replace(Bytes::from("done"));
            Ok(before.is_some())
        };
        assert_eq!(publish("a", b"1", 0).await, Ok(false));
        assert_eq!(publish("a", b"1", 1).await, Ok(true));
        assert_eq!(publish("a", b"2", 1).await, Err(ErrorCode::IdempotencyMismatch));
        assert_eq!(publish("a", b"2", 10).await, Ok(false), "the key was too old");
        assert_eq!(publish("b", b"", 11).await, Ok(false));
        assert_eq!(publish("c", b"", 12).await, Ok(false));
        assert_eq!(publish("a", b"3", 12).await, Ok(false), "the oldest made room");
        let stores = idempotency.stores.lock();
        assert!(stores.values().all(|store| (store.slots.len(), store.order.len()) == (2, 2)));
    }

    #[tokio::test]
    async fn a_key_has_1_to_255_bytes() {
        let idempotency = Idempotency::new(IdempotencyLimits { max_keys: 2, keep: Duration::from_secs(10) });
        let slot = |key: &str| idempotency.slot(Fingerprint([7; 32]), key, &[], Instant::now());
        assert_eq!(slot("").err().map(|refusal| refusal.code), Some(ErrorCode::Malformed));
        assert_eq!(slot(&"k".repeat(256)).err().map(|refusal| refusal.code), Some(ErrorCode::Malformed));
        assert!(slot(&"k".repeat(255)).is_ok());
    }
}
