//! `Idempotency-Key`: a publisher that did not receive the answer may retry, and publishes once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::auth::keys::Fingerprint;
use crate::broker::SharedStore;
use crate::protocol::{ErrorCode, Refusal};

/// draft-ietf-httpapi-idempotency-key-header section 2.
pub const HEADER: http::HeaderName = http::HeaderName::from_static("idempotency-key");

/// After this, a request whose node died no longer blocks its retries.
const IN_PROGRESS_TTL: Duration = Duration::from_secs(10);

/// How long a retry waits for a request in progress on another node, and how often it polls.
const IN_PROGRESS_TIMEOUT: Duration = Duration::from_secs(5);
const IN_PROGRESS_POLL_INTERVAL: Duration = Duration::from_millis(50);

const MAX_KEY_BYTES: usize = 255;

/// Memory of the answers to one publisher. The default number of keys, each for one publication, needs less.
const MAX_BYTES_PER_PUBLISHER: usize = 4 * 1024 * 1024;

/// Memory of a key beside its answer.
const SLOT_BYTES: usize = 256;

/// Concurrent requests to the shared store that remove answers.
const MAX_CONCURRENT_REMOVALS: usize = 16;

/// Bounds of the answers that are kept for one publisher.
#[derive(Clone, Copy, Debug)]
pub struct IdempotencyLimits {
    pub max_keys: usize,
    /// How long an answer is kept.
    pub keep: Duration,
}

/// The answers to recent requests, bounded for each publisher in number, bytes and age.
pub struct Idempotency {
    limits: IdempotencyLimits,
    publishers: Mutex<HashMap<Fingerprint, Slots>>,
}

/// The answers to one publisher.
#[derive(Default)]
struct Slots {
    by_key: HashMap<Hash, KeptSlot>,
    order: VecDeque<(Instant, Hash)>,
    bytes: usize,
    /// Answers that were removed early, and are to be removed from the shared store.
    evicted: Vec<Hash>,
}

struct KeptSlot {
    slot: Arc<Slot>,
    answer_bytes: usize,
}

type Hash = [u8; 32];

/// The answer to one key, in the memory of this node and in the shared store.
pub struct Slot {
    publisher: Fingerprint,
    /// Of publisher and key.
    key: Hash,
    request: Hash,
    answer: tokio::sync::Mutex<Option<Bytes>>,
}

impl Idempotency {
    pub fn new(limits: IdempotencyLimits) -> Self {
        Self { limits, publishers: Mutex::default() }
    }

    /// `request` holds every part that must be equal when a key is used again.
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
        let (key, request) = (hash(&[&publisher.0, key.as_bytes()]), hash(request));
        let IdempotencyLimits { max_keys, keep } = self.limits;
        let mut publishers = self.publishers.lock();
        let slots = publishers.entry(publisher).or_default();
        slots.expire(now, keep);
        match slots.by_key.get(&key) {
            Some(kept) if kept.slot.request == request => Ok(kept.slot.clone()),
            Some(_) => Err(ErrorCode::IdempotencyMismatch.into()),
            None => {
                slots.evict(max_keys - 1);
                let slot = Arc::new(Slot { publisher, key, request, answer: Default::default() });
                slots.insert(slot.clone(), now);
                Ok(slot)
            }
        }
    }

    /// Publishes, unless a request with this key did or does: then returns its answer. Errors are not kept.
    pub async fn once(
        &self,
        slot: &Arc<Slot>,
        shared: &dyn SharedStore,
        publishing: impl Future<Output = Result<Bytes, Refusal>>,
    ) -> Result<Bytes, Refusal> {
        // Locked while publishing, so that concurrent requests with one key publish once.
        let mut answer = slot.answer.lock().await;
        if let Some(answer) = &*answer {
            return Ok(answer.clone());
        }
        let first = slot.once_over_nodes(shared, self.limits.keep, publishing).await?;
        let evicted = self.count(slot, first.len());
        let removed = stream::iter(&evicted).for_each_concurrent(MAX_CONCURRENT_REMOVALS, |key| async move {
            // If this fails, it expires.
            let _ = shared.get_and_delete(&store_name(key)).await;
        });
        removed.await;
        Ok(answer.insert(first).clone())
    }

    /// Counts the bytes of an answer. Returns the keys of the answers that make room for it.
    fn count(&self, slot: &Arc<Slot>, bytes: usize) -> Vec<Hash> {
        let mut publishers = self.publishers.lock();
        let Some(slots) = publishers.get_mut(&slot.publisher) else { return Vec::new() };
        if let Some(kept) = slots.by_key.get_mut(&slot.key).filter(|kept| Arc::ptr_eq(&kept.slot, slot)) {
            kept.answer_bytes = bytes;
            slots.bytes += bytes;
        }
        slots.evict(self.limits.max_keys);
        std::mem::take(&mut slots.evicted)
    }
}

impl Slot {
    async fn once_over_nodes(
        &self,
        shared: &dyn SharedStore,
        keep: Duration,
        publishing: impl Future<Output = Result<Bytes, Refusal>>,
    ) -> Result<Bytes, Refusal> {
        // The value is the request's hash, followed by the answer once there is one.
        let name = store_name(&self.key);
        let deadline = Instant::now() + IN_PROGRESS_TIMEOUT;
        while !shared.set_if_absent_remote(&name, &self.request, IN_PROGRESS_TTL).await? {
            let Some(known) = shared.get(&name).await? else { continue };
            match known.split_at_checked(self.request.len()) {
                Some((request, _)) if request != self.request => return Err(ErrorCode::IdempotencyMismatch.into()),
                Some((_, answer)) if !answer.is_empty() => return Ok(known.slice(self.request.len()..)),
                _ if Instant::now() > deadline => {
                    let refusal = Refusal::new(ErrorCode::EngineUnavailable, "first request is still in progress");
                    return Err(refusal.retry_after(IN_PROGRESS_TIMEOUT));
                }
                _ => tokio::time::sleep(IN_PROGRESS_POLL_INTERVAL).await,
            }
        }
        match publishing.await {
            Ok(answer) => {
                // The publication is accepted, so an error of the store does not change the answer.
                let _ = shared.set_remote(&name, &[&self.request[..], &answer].concat(), keep).await;
                Ok(answer)
            }
            Err(refusal) => {
                // A retry publishes again.
                let _ = shared.get_and_delete(&name).await;
                Err(refusal)
            }
        }
    }
}

impl Slots {
    fn insert(&mut self, slot: Arc<Slot>, now: Instant) {
        self.order.push_back((now, slot.key));
        self.bytes += SLOT_BYTES;
        self.by_key.insert(slot.key, KeptSlot { slot, answer_bytes: 0 });
    }

    /// Removes the oldest answer. Returns its key if it had one.
    fn remove_oldest(&mut self) -> Option<Hash> {
        let (_, key) = self.order.pop_front()?;
        let kept = self.by_key.remove(&key)?;
        self.bytes -= SLOT_BYTES + kept.answer_bytes;
        (kept.answer_bytes > 0).then_some(key)
    }

    fn expire(&mut self, now: Instant, keep: Duration) {
        while self.order.front().is_some_and(|(at, _)| now.duration_since(*at) >= keep) {
            self.remove_oldest();
        }
    }

    /// Removes the oldest answers until `max_keys` are left, in the memory of one publisher.
    fn evict(&mut self, max_keys: usize) {
        while self.order.len() > max_keys || self.bytes > MAX_BYTES_PER_PUBLISHER {
            let oldest = self.remove_oldest();
            self.evicted.extend(oldest);
        }
    }
}

fn store_name(key: &Hash) -> String {
    format!("idempotency:{}", URL_SAFE_NO_PAD.encode(key))
}

/// Hashes each part with its length, so that different lists of parts have different hashes.
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
    use crate::engine::LocalStore;

    #[tokio::test]
    async fn keys_bounded_and_bound_to_request() {
        let store = LocalStore::new(0);
        let idempotency = Idempotency::new(IdempotencyLimits { max_keys: 2, keep: Duration::from_secs(10) });
        let start = Instant::now();
        let is_retry = async |key: &str, body: &[u8], seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            let slot = idempotency.slot(Fingerprint([7; 32]), key, &[body], now).map_err(|refusal| refusal.code)?;
            let mut is_retry = true;
            let publish = async {
                is_retry = false;
                Ok(Bytes::from("done"))
            };
            assert_eq!(idempotency.once(&slot, &store, publish).await, Ok(Bytes::from("done")));
            Ok(is_retry)
        };
        assert_eq!(is_retry("a", b"1", 0).await, Ok(false));
        assert_eq!(is_retry("a", b"1", 1).await, Ok(true));
        assert_eq!(is_retry("a", b"2", 1).await, Err(ErrorCode::IdempotencyMismatch));
        assert_eq!(is_retry("a", b"2", 10).await, Ok(false), "the first answer expired");
        assert_eq!(is_retry("b", b"", 11).await, Ok(false));
        assert_eq!(is_retry("c", b"", 12).await, Ok(false));
        assert_eq!(is_retry("a", b"3", 12).await, Ok(false), "the oldest was evicted");
        let publishers = idempotency.publishers.lock();
        assert!(publishers.values().all(|slots| (slots.by_key.len(), slots.order.len()) == (2, 2)));
    }

    #[tokio::test]
    async fn answers_are_bounded_in_bytes() {
        let store = LocalStore::new(0);
        let idempotency = Idempotency::new(IdempotencyLimits { max_keys: 10_000, keep: Duration::from_secs(10) });
        let now = Instant::now();
        let publish = async |key: &str, bytes: usize| {
            let slot = idempotency.slot(Fingerprint([7; 32]), key, &[], now).unwrap();
            let mut is_retry = true;
            let publishing = async {
                is_retry = false;
                Ok(vec![b'x'; bytes].into())
            };
            idempotency.once(&slot, &store, publishing).await.unwrap();
            is_retry
        };
        for n in 0..1_000 {
            publish(&n.to_string(), 16 * 1024).await;
            let publishers = idempotency.publishers.lock();
            assert!(
                publishers.values().all(|slots| slots.bytes <= MAX_BYTES_PER_PUBLISHER && slots.evicted.is_empty())
            );
        }
        assert!(publish("999", 1).await, "the newest is kept");
        assert!(!publish("0", 1).await, "the oldest made room");
        assert!(!publish("large", MAX_BYTES_PER_PUBLISHER).await);
        assert!(!publish("large", 1).await, "an answer above the bound is not kept");
        // The default number of single publications has room.
        for n in 0..10_000 {
            publish(&format!("small {n}"), 64).await;
        }
        assert!(publish("small 0", 64).await);
    }

    #[tokio::test]
    async fn key_has_1_to_255_bytes() {
        let idempotency = Idempotency::new(IdempotencyLimits { max_keys: 2, keep: Duration::from_secs(10) });
        let slot = |key: &str| idempotency.slot(Fingerprint([7; 32]), key, &[], Instant::now());
        assert_eq!(slot("").err().map(|refusal| refusal.code), Some(ErrorCode::Malformed));
        assert_eq!(slot(&"k".repeat(256)).err().map(|refusal| refusal.code), Some(ErrorCode::Malformed));
        assert!(slot(&"k".repeat(255)).is_ok());
    }
}
