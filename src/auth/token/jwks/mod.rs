//! The keys of one issuer as they come and go: from a file, by a push, or fetched. A ring outlives reloads.

pub mod discovery;
pub mod document;
pub mod freshness;
pub mod metrics;
pub mod refresh;
pub mod single_flight;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::JwkSet;
use parking_lot::Mutex;

use super::error::TokenError;
use super::issuer_error::IssuerProblem;
use super::key_set::KeySet;
use crate::auth::fetch::Endpoint;
use discovery::ProviderMetadata;
use single_flight::FetchGate;

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// What stood in a file that was changed then, in seconds since 1970. Pushes put other keys in its place.
    File {
        keys: JwkSet,
        changed: u64,
    },
    Remote(Remote),
}

/// The URL of a JWK Set, or of a discovery document that names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    KeySet(Endpoint),
    Discovery(Endpoint),
}

pub struct JwksCache {
    pub issuer: Arc<str>,
    pub source: KeySource,
    algorithms: Vec<Algorithm>,
    /// Seconds after which the keys count no more; 0 = never.
    pub max_age_secs: u64,
    keys: ArcSwapOption<Keys>,
    /// What the discovery document said last.
    pub provider: ArcSwapOption<ProviderMetadata>,
    pub demand: FetchGate,
    /// One change at a time.
    changes: Mutex<()>,
}

/// One set of keys. A later set has another generation.
pub struct Keys {
    pub set: KeySet,
    pub generation: u64,
    document: JwkSet,
    /// When they were known to be right, in seconds since 1970.
    confirmed: AtomicU64,
}

impl JwksCache {
    /// Takes over what `before`, the issuer's ring until now, knows, if the keys still come from the same source.
    pub fn new(
        issuer: Arc<str>,
        source: KeySource,
        algorithms: Vec<Algorithm>,
        max_age_secs: u64,
        before: Option<&Arc<JwksCache>>,
    ) -> Result<Arc<Self>, IssuerProblem> {
        let before = before.filter(|before| before.source == source);
        if let Some(same) = before.filter(|it| it.algorithms == algorithms && it.max_age_secs == max_age_secs) {
            return Ok(same.clone());
        }
        let ring = Self {
            issuer,
            source,
            algorithms,
            max_age_secs,
            keys: ArcSwapOption::empty(),
            provider: ArcSwapOption::new(before.and_then(|before| before.provider.load_full())),
            demand: FetchGate::default(),
            changes: Mutex::default(),
        };
        let known = before.and_then(|before| before.keys.load_full());
        // Under other algorithms they may verify nothing any more.
        let are_carried_over =
            known.is_some_and(|keys| ring.put(keys.document.clone(), keys.confirmed.load(Ordering::Relaxed)).is_ok());
        if let (false, KeySource::File { keys, changed }) = (are_carried_over, &ring.source) {
            ring.put(keys.clone(), *changed)?;
        }
        Ok(Arc::new(ring))
    }

    /// Puts these keys in force, which were right at `now`; keys that verify nothing change nothing.
    pub fn put(&self, document: JwkSet, now: u64) -> Result<(), IssuerProblem> {
        let _changing = self.changes.lock();
        if let Some(keys) = self.keys.load().as_ref().filter(|keys| keys.document == document) {
            keys.confirmed.store(now, Ordering::Relaxed);
            return Ok(());
        }
        let set = self.usable(&document)?;
        let keys = Keys { set, generation: next_generation(), document, confirmed: AtomicU64::new(now) };
        self.keys.store(Some(Arc::new(keys)));
        Ok(())
    }

    /// What of a key set verifies something here.
    pub fn usable(&self, document: &JwkSet) -> Result<KeySet, IssuerProblem> {
        let set =
            KeySet::new(document, &self.algorithms).map_err(|duplicate| IssuerProblem::DuplicateKeyId(duplicate.0))?;
        if set.is_empty() { Err(IssuerProblem::NoUsableKey(set.skipped)) } else { Ok(set) }
    }

    /// The keys in force are still right.
    pub fn confirm(&self, now: u64) {
        if let Some(keys) = self.keys.load().as_ref() {
            keys.confirmed.store(now, Ordering::Relaxed);
        }
    }

    /// The keys that count at `now`, in seconds since 1970.
    pub fn keys(&self, now: u64) -> Result<Arc<Keys>, TokenError> {
        let keys = self.keys.load_full().ok_or(TokenError::KeysMissing)?;
        if self.max_age_secs > 0 && keys.age(now) > self.max_age_secs {
            return Err(TokenError::KeysTooOld);
        }
        Ok(keys)
    }

    /// The keys in force, however old.
    pub fn latest(&self) -> Option<Arc<Keys>> {
        self.keys.load_full()
    }

    /// Whether half of the time is over after which the keys count no more.
    pub fn is_stale(&self, age: u64) -> bool {
        self.max_age_secs > 0 && age > self.max_age_secs / 2
    }
}

impl Keys {
    /// In seconds.
    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.confirmed.load(Ordering::Relaxed))
    }
}

/// Never the same twice in this process, so that a token that was verified by keys of one ring is not taken for
/// verified by another's.
fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
