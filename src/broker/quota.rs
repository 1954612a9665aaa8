//! Counts by key with a limit each; a permit gives its counts back when it is dropped.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// The counts of all keys that have a permit. A key without one takes no memory.
pub struct Quota<K>(Mutex<HashMap<K, u64>>);

/// One count of each of its keys.
pub struct QuotaPermit<K: Eq + Hash, const N: usize = 1> {
    quota: Arc<Quota<K>>,
    keys: [K; N],
}

impl<K: Eq + Hash + Clone> Quota<K> {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    /// Counts one more of every key, or of none if one of them is at its limit. A limit of 0 means no limit.
    pub fn take<const N: usize>(self: &Arc<Self>, keys: [(K, u64); N]) -> Option<QuotaPermit<K, N>> {
        let mut counts = self.0.lock();
        let is_full = |(key, limit): &(K, u64)| *limit != 0 && counts.get(key).is_some_and(|count| count >= limit);
        if keys.iter().any(is_full) {
            return None;
        }
        let keys = keys.map(|(key, _)| key);
        for key in &keys {
            match counts.get_mut(key) {
                Some(count) => *count += 1,
                None => drop(counts.insert(key.clone(), 1)),
            }
        }
        Some(QuotaPermit { quota: self.clone(), keys })
    }

    pub fn count(&self, key: &K) -> u64 {
        self.0.lock().get(key).copied().unwrap_or(0)
    }

    /// Keys with a permit.
    #[cfg(test)]
    pub fn keys(&self) -> usize {
        self.0.lock().len()
    }
}

impl<K: Eq + Hash, const N: usize> Drop for QuotaPermit<K, N> {
    fn drop(&mut self) {
        let mut counts = self.quota.0.lock();
        for key in &self.keys {
            match counts.get_mut(key) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(counts.remove(key)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_all_keys_or_none() {
        let quota = Quota::new();
        let first = quota.take([("all", 2), ("a", 1)]).unwrap();
        assert!(quota.take([("all", 2), ("a", 1)]).is_none());
        assert_eq!(quota.count(&"all"), 1, "a refused take counts nothing");
        let _second = quota.take([("all", 2), ("b", 0)]).unwrap();
        assert!(quota.take([("all", 2), ("b", 0)]).is_none());
        drop(first);
        assert_eq!((quota.count(&"all"), quota.count(&"a"), quota.keys()), (1, 0, 2));
        assert!(quota.take([("all", 2), ("a", 1)]).is_some());
    }
}
