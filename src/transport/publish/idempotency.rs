//! `Idempotency-Key`: a publisher that did not hear the answer may ask again and publishes once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::auth::keys::Fingerprint;
use crate::protocol::{Code, Refusal};

/// draft-ietf-httpapi-idempotency-key-header section 2.
pub const HEADER: http::HeaderName = http::HeaderName::from_static("idempotency-key");

/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// What publishers were answered, each bounded in number and age.
pub struct Idempotency {
    max_keys: usize,
    age: Duration,
    stores: Mutex<HashMap<Fingerprint, Arc<Mutex<Store>>>>,
}

/// The answers of one publisher.
pub struct Store {
    max_keys: usize,
    age: Duration,
    answers: HashMap<Hash, Answer>,
    order: VecDeque<(Instant, Hash)>,
}

type Hash = [u8; 32];

struct Answer {
    request: Hash,
    body: Bytes,
}

/// A request that was not seen before.
pub struct Entry {
    key: Hash,
    request: Hash,
}

pub enum Found {
    /// The answer of the first time.
    Answer(Bytes),
    New(Entry),
}

impl Idempotency {
    pub fn new(max_keys: usize, age: Duration) -> Self {
        Self { max_keys, age, stores: Mutex::default() }
    }

    pub fn of(&self, publisher: Fingerprint) -> Arc<Mutex<Store>> {
        let new = || Store { max_keys: self.max_keys, age: self.age, answers: HashMap::new(), order: VecDeque::new() };
        self.stores.lock().entry(publisher).or_insert_with(|| Arc::new(Mutex::new(new()))).clone()
    }
}

impl Store {
    /// `request` is everything that must be the same when a key is used again.
    pub fn find(&mut self, key: &str, request: &[&[u8]], now: Instant) -> Result<Found, Refusal> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(Refusal::new(Code::Malformed, "an Idempotency-Key has 1 to 255 bytes"));
        }
        self.forget(now, self.max_keys);
        let entry = Entry { key: hash(&[key.as_bytes()]), request: hash(request) };
        match self.answers.get(&entry.key) {
            None => Ok(Found::New(entry)),
            Some(answer) if answer.request == entry.request => Ok(Found::Answer(answer.body.clone())),
            Some(_) => Err(Code::IdempotencyMismatch.into()),
        }
    }

    pub fn insert(&mut self, entry: Entry, body: Bytes, now: Instant) {
        self.forget(now, self.max_keys - 1);
        self.order.push_back((now, entry.key));
        self.answers.insert(entry.key, Answer { request: entry.request, body });
    }

    /// Forgets what is too old, and the oldest until `max_keys` are left.
    fn forget(&mut self, now: Instant, max_keys: usize) {
        while let Some((at, key)) = self.order.front()
            && (now.duration_since(*at) >= self.age || self.order.len() > max_keys)
        {
            self.answers.remove(key);
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

    #[test]
    fn keys_are_bounded_in_number_and_age_and_bound_to_their_request() {
        let mut store =
            Store { max_keys: 2, age: Duration::from_secs(10), answers: HashMap::new(), order: VecDeque::new() };
        let start = Instant::now();
        let publish = |store: &mut Store, key: &str, body: &[u8], seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            match store.find(key, &[body], now).map_err(|refusal| refusal.code)? {
                Found::Answer(answer) => Ok(answer),
                Found::New(entry) => {
                    store.insert(entry, Bytes::from("new"), now);
                    Ok(Bytes::new())
                }
            }
        };
        assert_eq!(publish(&mut store, "a", b"1", 0), Ok(Bytes::new()));
        assert_eq!(publish(&mut store, "a", b"1", 1), Ok(Bytes::from("new")));
        assert_eq!(publish(&mut store, "a", b"2", 1), Err(Code::IdempotencyMismatch));
        assert_eq!(publish(&mut store, "a", b"2", 10), Ok(Bytes::new()), "the key was too old");
        assert_eq!(publish(&mut store, "b", b"", 11), Ok(Bytes::new()));
        assert_eq!(publish(&mut store, "c", b"", 12), Ok(Bytes::new()));
        assert_eq!(publish(&mut store, "a", b"3", 12), Ok(Bytes::new()), "the oldest made room");
        assert_eq!((store.answers.len(), store.order.len()), (2, 2));
        assert_eq!(publish(&mut store, "", b"", 12), Err(Code::Malformed));
    }
}
