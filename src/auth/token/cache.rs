//! Cache of verified tokens: a reconnecting client costs a hash instead of a signature check.
//!
//! Two generations bound the size: a full young generation becomes the old one, and unused entries of the old one are
//! dropped. Only accepted tokens are cached, so invalid tokens cannot fill it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::broker::Principal;

/// SHA-256 over the whole token, signature included.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

pub struct TokenCache {
    generation_size: usize,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<TokenDigest, Entry>,
    old: HashMap<TokenDigest, Entry>,
}

struct Entry {
    principal: Arc<Principal>,
    /// Generation of the keys that verified it.
    keys: u64,
    /// Seconds since 1970 in which the token is accepted.
    admitted: Range<u64>,
}

impl TokenCache {
    /// Stores at most `capacity` tokens, and retains at least half as many.
    pub fn new(capacity: usize) -> Self {
        Self { generation_size: (capacity / 2).max(1), generations: Mutex::default() }
    }

    /// The principal of a cached token that is accepted at `now`, and the generation of the keys that verified it.
    pub fn get(&self, digest: &TokenDigest, now: u64) -> Option<(Arc<Principal>, u64)> {
        let mut generations = self.generations.lock();
        if let Some(entry) = generations.young.get(digest) {
            return entry.at(now);
        }
        let entry = generations.old.remove(digest)?;
        let principal = entry.at(now)?;
        generations.add(*digest, entry, self.generation_size);
        Some(principal)
    }

    pub fn insert(&self, digest: TokenDigest, principal: Arc<Principal>, keys: u64, admitted: Range<u64>) {
        self.generations.lock().add(digest, Entry { principal, keys, admitted }, self.generation_size);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let generations = self.generations.lock();
        generations.young.len() + generations.old.len()
    }
}

impl Generations {
    fn add(&mut self, digest: TokenDigest, entry: Entry, generation_size: usize) {
        if self.young.len() >= generation_size {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, entry);
    }
}

impl Entry {
    fn at(&self, now: u64) -> Option<(Arc<Principal>, u64)> {
        self.admitted.contains(&now).then(|| (self.principal.clone(), self.keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal() -> Arc<Principal> {
        Arc::new(Principal {
            issuer: "i".into(),
            subject: "s".into(),
            scopes: vec![],
            groups: vec![],
            claims: Default::default(),
            expires: 20,
        })
    }

    #[test]
    fn returns_tokens_while_valid() {
        let cache = TokenCache::new(4);
        let digest = TokenDigest::of("token");
        cache.insert(digest, principal(), 1, 10..20);
        assert!(cache.get(&digest, 9).is_none());
        assert!(cache.get(&digest, 10).is_some());
        assert!(cache.get(&digest, 19).is_some());
        assert!(cache.get(&digest, 20).is_none());
        assert!(cache.get(&TokenDigest::of("other"), 10).is_none());
    }

    #[test]
    fn bounded_and_keeps_used_tokens() {
        let cache = TokenCache::new(100);
        let used = TokenDigest::of("used");
        cache.insert(used, principal(), 1, 0..u64::MAX);
        for number in 0..1000 {
            cache.insert(TokenDigest::of(&number.to_string()), principal(), 1, 0..u64::MAX);
            assert!(cache.len() <= 100);
            assert!(cache.get(&used, 1).is_some(), "lost after {number}");
        }
        assert!(cache.get(&TokenDigest::of("1"), 1).is_none());
    }
}
