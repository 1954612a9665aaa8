//! Cached keys of one issuer, from a file, a push or a fetch. A cache outlives reloads.

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

/// Source of an issuer's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The keys of a file, and its modification time in seconds since 1970. Pushes replace them.
    File {
        keys: JwkSet,
        changed: u64,
    },
    Remote(Remote),
}

/// URL of a JWK Set, or of a discovery document that names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    KeySet(Endpoint),
    Discovery(Endpoint),
}

pub struct JwksCache {
    pub issuer: Arc<str>,
    pub source: KeySource,
    algorithms: Vec<Algorithm>,
    /// Age since the last confirmation from which keys are rejected; 0 = never.
    pub max_age_secs: u64,
    keys: ArcSwapOption<Keys>,
    /// The last valid discovery document.
    pub provider: ArcSwapOption<ProviderMetadata>,
    pub fetch_gate: FetchGate,
    /// Serializes changes.
    changes: Mutex<()>,
}

/// One set of keys. A later set has another generation.
pub struct Keys {
    pub set: KeySet,
    pub generation: u64,
    document: JwkSet,
    /// Last confirmation, in seconds since 1970.
    confirmed: AtomicU64,
}

impl JwksCache {
    /// Takes over keys and metadata of `before`, the issuer's previous cache, if the source is the same.
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
        let cache = Self {
            issuer,
            source,
            algorithms,
            max_age_secs,
            keys: ArcSwapOption::empty(),
            provider: ArcSwapOption::new(before.and_then(|before| before.provider.load_full())),
            fetch_gate: FetchGate::default(),
            changes: Mutex::default(),
        };
        let known = before.and_then(|before| before.keys.load_full());
        // With other algorithms the keys may be unusable.
        let are_carried_over =
            known.is_some_and(|keys| cache.put(keys.document.clone(), keys.confirmed.load(Ordering::Relaxed)).is_ok());
        if let (false, KeySource::File { keys, changed }) = (are_carried_over, &cache.source) {
            cache.put(keys.clone(), *changed)?;
        }
        Ok(Arc::new(cache))
    }

    /// Replaces the keys, confirmed at `now`. A set without usable keys changes nothing.
    pub fn put(&self, document: JwkSet, now: u64) -> Result<(), IssuerProblem> {
        let _serialized = self.changes.lock();
        if let Some(keys) = self.keys.load().as_ref().filter(|keys| keys.document == document) {
            keys.confirmed.store(now, Ordering::Relaxed);
            return Ok(());
        }
        let set = self.usable(&document)?;
        let keys = Keys { set, generation: next_generation(), document, confirmed: AtomicU64::new(now) };
        self.keys.store(Some(Arc::new(keys)));
        Ok(())
    }

    /// The usable keys of a JWK Set.
    pub fn usable(&self, document: &JwkSet) -> Result<KeySet, IssuerProblem> {
        let set =
            KeySet::new(document, &self.algorithms).map_err(|duplicate| IssuerProblem::DuplicateKeyId(duplicate.0))?;
        if set.is_empty() { Err(IssuerProblem::NoUsableKey(set.skipped)) } else { Ok(set) }
    }

    /// Confirms the current keys.
    pub fn confirm(&self, now: u64) {
        if let Some(keys) = self.keys.load().as_ref() {
            keys.confirmed.store(now, Ordering::Relaxed);
        }
    }

    /// The keys, unless they are too old at `now`, in seconds since 1970.
    pub fn keys(&self, now: u64) -> Result<Arc<Keys>, TokenError> {
        let keys = self.keys.load_full().ok_or(TokenError::KeysMissing)?;
        if self.max_age_secs > 0 && keys.age(now) > self.max_age_secs {
            return Err(TokenError::KeysTooOld);
        }
        Ok(keys)
    }

    /// The keys regardless of their age.
    pub fn latest(&self) -> Option<Arc<Keys>> {
        self.keys.load_full()
    }

    /// Whether keys of this age have passed half of `max_age_secs`.
    pub fn is_stale(&self, age: u64) -> bool {
        self.max_age_secs > 0 && age > self.max_age_secs / 2
    }
}

impl Keys {
    /// Seconds since the last confirmation.
    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.confirmed.load(Ordering::Relaxed))
    }
}

/// Unique in this process, so that keys of one cache never validate tokens that keys of another cache verified.
fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
