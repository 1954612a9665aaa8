//! Tokens that were verified before: a client that connects again costs a hash, not a signature.
//!
//! Two generations bound the size: when the young one is full it becomes the old one, and what was not
//! asked for since then is forgotten. Only tokens that were accepted get in, so nobody can fill it with rubbish.

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

pub struct Verified {
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
    /// Of the keys that verified it.
    keys: u64,
    /// Seconds since 1970, as when it was verified.
    admitted: Range<u64>,
}

impl Verified {
    /// Holds at most `capacity` tokens, and at least half as many.
    pub fn new(capacity: usize) -> Self {
        Self { generation_size: (capacity / 2).max(1), generations: Mutex::default() }
    }

    /// The principal, if this token was accepted before and would be again at `now`, with the generation of the keys
    /// that verified it.
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
    fn a_token_is_remembered_while_it_is_valid() {
        let cache = Verified::new(4);
        let digest = TokenDigest::of("token");
        cache.insert(digest, principal(), 1, 10..20);
        assert!(cache.get(&digest, 9).is_none());
        assert!(cache.get(&digest, 10).is_some());
        assert!(cache.get(&digest, 19).is_some());
        assert!(cache.get(&digest, 20).is_none());
        assert!(cache.get(&TokenDigest::of("other"), 10).is_none());
    }

    #[test]
    fn it_never_holds_more_than_its_capacity_and_keeps_what_is_used() {
        let cache = Verified::new(100);
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
