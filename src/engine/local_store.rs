//! The shared store of an engine for one node: a bounded map in memory whose entries expire.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::ready;
use parking_lot::Mutex;

use crate::broker::engine::EngineFuture;
use crate::broker::{Now, SharedStore};
use crate::protocol::{ErrorCode, Refusal};

/// Names of facts in the ledger.
const LOG_PREFIX: &str = "log:";
const KEPT_PREFIX: &str = "kept:";
const SPENT_PREFIX: &str = "spent:";
/// The newest `created` of a key's signatures.
const NONCES_PREFIX: &str = "created:";

/// Bytes of memory for each entry that may be there, on average over all entries.
const MEAN_ENTRY_BYTES: usize = 64 * 1024;

/// Facts on the disk of an engine for one node, which must not be forgotten by a restart.
pub trait Ledger: Send + Sync {
    /// A name of its own, as long as the disk's content lives.
    fn identity(&self) -> String;

    /// Writes a fact until `expires`, in seconds since 1970, in place of an earlier one of this name.
    fn write<'a>(&'a self, name: String, value: Bytes, expires: u64) -> EngineFuture<'a, ()>;

    /// [`Ledger::write`] unless the name has a fact. Returns whether it had none.
    fn write_if_absent<'a>(&'a self, name: String, expires: u64) -> EngineFuture<'a, bool>;

    /// [`Ledger::write`] of a number, unless the fact is as large already.
    fn raise<'a>(&'a self, name: String, number: u64, expires: u64) -> EngineFuture<'a, ()>;

    fn fact(&self, name: &str) -> Option<Bytes>;

    /// The number under a name; 0 if there is none.
    fn number(&self, name: &str) -> u64;

    /// Whether earlier processes wrote their nonces here.
    fn has_nonces(&self) -> bool;

    /// The facts whose name has this prefix, in the order of their names.
    fn facts(&self, prefix: &str) -> Vec<(String, Bytes)>;
}

/// A signature's age and the difference of two clocks, twice: the longest time for which a nonce must be known.
const NONCE_SECS: u64 = 180;

pub struct LocalStore {
    ledger: Option<Arc<dyn Ledger>>,
    max_entries: usize,
    max_bytes: usize,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_name: HashMap<String, Entry>,
    bytes: usize,
}

struct Entry {
    value: Bytes,
    expires: Instant,
}

impl LocalStore {
    pub fn new(max_entries: usize) -> Self {
        let max_bytes = max_entries.saturating_mul(MEAN_ENTRY_BYTES);
        Self { ledger: None, max_entries, max_bytes, entries: Mutex::default() }
    }

    /// A store whose facts outlive the process.
    pub fn with_ledger(max_entries: usize, ledger: Arc<dyn Ledger>) -> Self {
        Self { ledger: Some(ledger), ..Self::new(max_entries) }
    }

    /// Drops expired entries. To be called once a second.
    pub fn sweep(&self, now: Instant) {
        self.entries.lock().drop_expired(now);
    }

    /// Stores a value, in place of an earlier one. A full store refuses with [`ErrorCode::LimitReached`].
    fn insert(
        &self,
        entries: &mut Entries,
        name: &str,
        value: &[u8],
        expires: Instant,
        now: Instant,
    ) -> Result<(), Refusal> {
        if !self.has_space(entries, name, value) {
            entries.drop_expired(now);
            if !self.has_space(entries, name, value) {
                return Err(Refusal::new(ErrorCode::LimitReached, "shared store is full"));
            }
        }
        entries.remove(name, now);
        entries.bytes += cost(name, value);
        entries.by_name.insert(name.to_owned(), Entry { value: Bytes::copy_from_slice(value), expires });
        Ok(())
    }

    fn has_space(&self, entries: &Entries, name: &str, value: &[u8]) -> bool {
        let (replaced, replaced_bytes) =
            entries.by_name.get(name).map_or((0, 0), |entry| (1, cost(name, &entry.value)));
        let bytes = entries.bytes - replaced_bytes + cost(name, value);
        entries.by_name.len() - replaced < self.max_entries && bytes <= self.max_bytes
    }

    /// [`LocalStore::insert`] if `may_replace` allows it for the value that is there; returns whether it did.
    fn insert_if(
        &self,
        name: &str,
        value: &[u8],
        ttl: Duration,
        now: Instant,
        may_replace: impl FnOnce(Option<&Bytes>) -> bool,
    ) -> Result<bool, Refusal> {
        let mut entries = self.entries.lock();
        let is_inserted = may_replace(entries.get(name, now));
        if is_inserted {
            self.insert(&mut entries, name, value, now + ttl, now)?;
        }
        Ok(is_inserted)
    }

    /// The sum under a name, which is stored as decimal text; the first count decides when it expires.
    fn add(&self, name: &str, more: u32, ttl: Duration, now: Instant) -> Result<u64, Refusal> {
        let mut entries = self.entries.lock();
        let known = entries.by_name.get(name).filter(|entry| entry.expires > now);
        let before = known.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok()).unwrap_or(0u64);
        let (count, expires) = (before + u64::from(more), known.map_or(now + ttl, |entry| entry.expires));
        if more > 0 {
            self.insert(&mut entries, name, count.to_string().as_bytes(), expires, now)?;
        }
        Ok(count)
    }
}

impl Entries {
    fn get(&self, name: &str, now: Instant) -> Option<&Bytes> {
        self.by_name.get(name).filter(|entry| entry.expires > now).map(|entry| &entry.value)
    }

    fn remove(&mut self, name: &str, now: Instant) -> Option<Bytes> {
        let entry = self.by_name.remove(name)?;
        self.bytes -= cost(name, &entry.value);
        (entry.expires > now).then_some(entry.value)
    }

    fn drop_expired(&mut self, now: Instant) {
        let Self { by_name, bytes } = self;
        by_name.retain(|name, entry| {
            let is_kept = entry.expires > now;
            if !is_kept {
                *bytes -= cost(name, &entry.value);
            }
            is_kept
        });
    }
}

/// Seconds since 1970 at which a fact expires.
fn expiry(ttl: Duration) -> u64 {
    Now::read().unix().saturating_add(ttl.as_secs())
}

fn cost(name: &str, value: &[u8]) -> usize {
    size_of::<(String, Entry)>() + name.len() + value.len()
}

/// There are no other nodes: names that only they could have used are free, and nothing is sent to them.
impl SharedStore for LocalStore {
    fn has_other_nodes(&self) -> bool {
        false
    }

    fn connection_epoch(&self) -> Result<u64, Refusal> {
        Ok(0)
    }

    fn set_if_absent<'a>(&'a self, name: &'a str, value: &'a [u8], ttl: Duration) -> EngineFuture<'a, bool> {
        Box::pin(ready(self.insert_if(name, value, ttl, Instant::now(), |known| known.is_none())))
    }

    fn set<'a>(&'a self, name: &'a str, value: &'a [u8], ttl: Duration) -> EngineFuture<'a, ()> {
        Box::pin(ready(self.insert_if(name, value, ttl, Instant::now(), |_| true).map(drop)))
    }

    fn keep<'a>(&'a self, name: &'a str, value: &'a [u8], ttl: Duration) -> EngineFuture<'a, ()> {
        match &self.ledger {
            Some(ledger) => ledger.write(format!("{KEPT_PREFIX}{name}"), Bytes::copy_from_slice(value), expiry(ttl)),
            None => self.set(name, value, ttl),
        }
    }

    fn get<'a>(&'a self, name: &'a str) -> EngineFuture<'a, Option<Bytes>> {
        let kept = || self.ledger.as_ref().and_then(|ledger| ledger.fact(&format!("{KEPT_PREFIX}{name}")));
        let found = self.entries.lock().get(name, Instant::now()).cloned();
        Box::pin(ready(Ok(found.or_else(kept))))
    }

    fn get_and_delete<'a>(&'a self, name: &'a str) -> EngineFuture<'a, Option<Bytes>> {
        Box::pin(ready(Ok(self.entries.lock().remove(name, Instant::now()))))
    }

    fn claim<'a>(
        &'a self,
        name: &'a str,
        value: &'a str,
        instead_of: Option<&'a str>,
        ttl: Duration,
    ) -> EngineFuture<'a, String> {
        let mut owner = None;
        let claimed = self.insert_if(name, value.as_bytes(), ttl, Instant::now(), |known| {
            let Some(known) = known else { return true };
            owner = Some(String::from_utf8_lossy(known).into_owned());
            known == value || instead_of.is_some_and(|replaceable| known == replaceable)
        });
        let owner = |is_claimed| if is_claimed { value.to_owned() } else { owner.unwrap_or_default() };
        Box::pin(ready(claimed.map(owner)))
    }

    fn increment<'a>(&'a self, name: &'a str, more: u32, ttl: Duration) -> EngineFuture<'a, u64> {
        Box::pin(ready(self.add(name, more, ttl, Instant::now())))
    }

    fn reserve<'a>(
        &'a self,
        _name: &'a str,
        taken: u64,
        wanted: u64,
        limit: u64,
        _ttl: Duration,
    ) -> EngineFuture<'a, u64> {
        Box::pin(ready(Ok(if limit == 0 { wanted } else { wanted.min(limit.max(taken)) })))
    }

    fn release<'a>(&'a self, name: &'a str, value: &'a str) -> EngineFuture<'a, ()> {
        let (mut entries, now) = (self.entries.lock(), Instant::now());
        if entries.get(name, now).is_some_and(|known| known == value) {
            entries.remove(name, now);
        }
        Box::pin(ready(Ok(())))
    }

    fn identity(&self) -> Option<String> {
        self.ledger.as_ref().map(|ledger| ledger.identity())
    }

    fn spend<'a>(&'a self, name: &'a str, ttl: Duration) -> EngineFuture<'a, bool> {
        match &self.ledger {
            Some(ledger) => ledger.write_if_absent(format!("{SPENT_PREFIX}{name}"), expiry(ttl)),
            None => Box::pin(ready(Ok(true))),
        }
    }

    /// The newest `created` of each key is enough: a later process accepts newer ones only. A signature from the future
    /// is stored by itself, because it would keep the key's other signatures out.
    fn use_nonce<'a>(&'a self, name: &'a str, key: &'a str, created: u64) -> EngineFuture<'a, bool> {
        let Some(ledger) = &self.ledger else { return Box::pin(ready(Ok(true))) };
        let (spent, expires) = (format!("{SPENT_PREFIX}{name}"), created.saturating_add(NONCE_SECS));
        if ledger.fact(&spent).is_some() {
            return Box::pin(ready(Ok(false)));
        }
        if created > Now::read().unix() {
            return ledger.write_if_absent(spent, expires);
        }
        let raised = ledger.raise(format!("{NONCES_PREFIX}{key}"), created, expires);
        Box::pin(async { raised.await.map(|()| true) })
    }

    fn forgotten_nonces(&self, key: &str) -> Option<u64> {
        let ledger = self.ledger.as_ref().filter(|ledger| ledger.has_nonces())?;
        Some(ledger.number(&format!("{NONCES_PREFIX}{key}")))
    }

    fn append_log<'a>(&'a self, name: &'a str, entry: &'a [u8], ttl: Duration) -> EngineFuture<'a, ()> {
        match &self.ledger {
            Some(ledger) => ledger.write(format!("{LOG_PREFIX}{name}"), Bytes::copy_from_slice(entry), expiry(ttl)),
            None => Box::pin(ready(Ok(()))),
        }
    }

    fn read_log<'a>(&'a self, after: &'a str) -> EngineFuture<'a, Vec<(String, Bytes)>> {
        let mut entries = self.ledger.as_ref().map_or_else(Vec::new, |ledger| ledger.facts(LOG_PREFIX));
        entries.retain(|(name, _)| name.as_str() > after);
        Box::pin(ready(Ok(entries)))
    }

    fn is_alive<'a>(&'a self, _node: &'a str) -> EngineFuture<'a, bool> {
        Box::pin(ready(Ok(false)))
    }

    fn deregister(&self) -> EngineFuture<'_, ()> {
        Box::pin(ready(Ok(())))
    }

    fn heartbeat<'a>(&'a self, _status: &'a [u8]) -> EngineFuture<'a, ()> {
        Box::pin(ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    #[test]
    fn entries_expire() {
        let (store, start) = (LocalStore::new(10), Instant::now());
        let set_if_absent = |value: &[u8], at| store.insert_if("name", value, TTL, at, |known| known.is_none());
        assert_eq!(set_if_absent(b"a", start), Ok(true));
        assert_eq!(set_if_absent(b"b", start + TTL - Duration::from_millis(1)), Ok(false));
        assert_eq!(set_if_absent(b"c", start + TTL), Ok(true));
        assert_eq!(store.entries.lock().remove("name", start + 2 * TTL), None);
        assert_eq!(set_if_absent(b"d", start), Ok(true));
        store.sweep(start + TTL);
        let entries = store.entries.lock();
        assert_eq!((entries.by_name.len(), entries.bytes), (0, 0));
    }

    #[test]
    fn bounded_in_entries_and_bytes() {
        let (store, now) = (LocalStore::new(2), Instant::now());
        let set = |name: &str, value: &[u8], at| {
            store.insert_if(name, value, TTL, at, |_| true).map_err(|refusal| refusal.code)
        };
        assert_eq!(set("a", b"", now), Ok(true));
        assert_eq!(set("b", b"", now), Ok(true));
        assert_eq!(set("b", b"replaced", now), Ok(true));
        assert_eq!(set("c", b"", now), Err(ErrorCode::LimitReached));
        assert_eq!(set("c", b"", now + TTL), Ok(true), "expired entries make room");
        assert_eq!(set("c", &vec![0; 2 * MEAN_ENTRY_BYTES], now), Err(ErrorCode::LimitReached));
        let half = vec![0; MEAN_ENTRY_BYTES];
        assert_eq!(set("c", &half, now), Ok(true));
        assert_eq!(set("d", &half, now), Err(ErrorCode::LimitReached));
    }

    #[tokio::test]
    async fn claims_and_counts() {
        let store = LocalStore::new(10);
        assert_eq!(store.claim("room", "a", None, TTL).await.as_deref(), Ok("a"));
        assert_eq!(store.claim("room", "b", None, TTL).await.as_deref(), Ok("a"));
        assert_eq!(store.claim("room", "b", Some("a"), TTL).await.as_deref(), Ok("b"));
        store.release("room", "a").await.unwrap();
        assert_eq!(store.get_and_delete("room").await, Ok(Some(Bytes::from("b"))));
        assert_eq!(store.get("room").await, Ok(None));
        assert_eq!(store.increment("wrong", 0, TTL).await, Ok(0));
        assert_eq!(store.increment("wrong", 2, TTL).await, Ok(2));
        assert_eq!(store.increment("wrong", 1, TTL).await, Ok(3));
        assert_eq!(store.add("wrong", 1, TTL, Instant::now() + TTL), Ok(1));
        assert_eq!(store.reserve("n", 1, 3, 2, TTL).await, Ok(2));
        assert_eq!(store.reserve("n", 3, 4, 2, TTL).await, Ok(3));
    }
}
