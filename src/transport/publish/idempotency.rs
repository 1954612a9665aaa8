//! `Idempotency-Key`: a publisher that did not receive the answer may retry, and publishes once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
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

/// Bounds of the answers that are kept for one publisher.
#[derive(Clone, Copy, Debug)]
pub struct IdempotencyLimits {
    pub max_keys: usize,
    /// How long an answer is kept.
    pub keep: Duration,
}

/// The answers to recent requests, bounded for each publisher in number and age.
pub struct Idempotency {
    limits: IdempotencyLimits,
    publishers: Mutex<HashMap<Fingerprint, Slots>>,
}

/// The answers to one publisher.
#[derive(Default)]
struct Slots {
    by_key: HashMap<Hash, Arc<Slot>>,
    order: VecDeque<(Instant, Hash)>,
}

type Hash = [u8; 32];

/// The answer to one key, in the memory of this node and in the shared store.
pub struct Slot {
    /// In the shared store: the request's hash, followed by the answer once there is one.
    name: String,
    request: Hash,
    keep: Duration,
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
        let (hashed_key, request) = (hash(&[key.as_bytes()]), hash(request));
        let IdempotencyLimits { max_keys, keep } = self.limits;
        let mut publishers = self.publishers.lock();
        let slots = publishers.entry(publisher).or_default();
        slots.evict(now, keep, max_keys);
        match slots.by_key.get(&hashed_key) {
            Some(slot) if slot.request == request => Ok(slot.clone()),
            Some(_) => Err(ErrorCode::IdempotencyMismatch.into()),
            None => {
                slots.evict(now, keep, max_keys - 1);
                let name = URL_SAFE_NO_PAD.encode(hash(&[&publisher.0, key.as_bytes()]));
                let name = format!("idempotency:{name}");
                let slot = Arc::new(Slot { name, request, keep, answer: Default::default() });
                slots.order.push_back((now, hashed_key));
                slots.by_key.insert(hashed_key, slot.clone());
                Ok(slot)
            }
        }
    }
}

impl Slot {
    /// Publishes, unless a request with this key did or does: then returns its answer. Errors are not kept.
    pub async fn once(
        &self,
        shared: &dyn SharedStore,
        publishing: impl Future<Output = Result<Bytes, Refusal>>,
    ) -> Result<Bytes, Refusal> {
        // Locked while publishing, so that concurrent requests with one key publish once.
        let mut answer = self.answer.lock().await;
        if let Some(answer) = &*answer {
            return Ok(answer.clone());
        }
        let first = self.once_over_nodes(shared, publishing).await?;
        Ok(answer.insert(first).clone())
    }

    async fn once_over_nodes(
        &self,
        shared: &dyn SharedStore,
        publishing: impl Future<Output = Result<Bytes, Refusal>>,
    ) -> Result<Bytes, Refusal> {
        let deadline = Instant::now() + IN_PROGRESS_TIMEOUT;
        while !shared.set_if_absent_remote(&self.name, &self.request, IN_PROGRESS_TTL).await? {
            let Some(known) = shared.get(&self.name).await? else { continue };
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
                let _ = shared.set_remote(&self.name, &[&self.request[..], &answer].concat(), self.keep).await;
                Ok(answer)
            }
            Err(refusal) => {
                // A retry publishes again.
                let _ = shared.get_and_delete(&self.name).await;
                Err(refusal)
            }
        }
    }
}

impl Slots {
    /// Removes expired answers, and the oldest until `max_keys` are left.
    fn evict(&mut self, now: Instant, keep: Duration, max_keys: usize) {
        while let Some((at, key)) = self.order.front()
            && (now.duration_since(*at) >= keep || self.order.len() > max_keys)
        {
            self.by_key.remove(key);
            self.order.pop_front();
        }
    }
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
            assert_eq!(slot.once(&store, publish).await, Ok(Bytes::from("done")));
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
    async fn key_has_1_to_255_bytes() {
        let idempotency = Idempotency::new(IdempotencyLimits { max_keys: 2, keep: Duration::from_secs(10) });
        let slot = |key: &str| idempotency.slot(Fingerprint([7; 32]), key, &[], Instant::now());
        assert_eq!(slot("").err().map(|refusal| refusal.code), Some(ErrorCode::Malformed));
        assert_eq!(slot(&"k".repeat(256)).err().map(|refusal| refusal.code), Some(ErrorCode::Malformed));
        assert!(slot(&"k".repeat(255)).is_ok());
    }
}
