//! Values that are accepted once: states of logins and ids of logout tokens.
//!
//! Two generations bound memory. A flood can evict a value early. That is harmless: the provider accepts a code once
//! too, and a repeated logout ends nothing more.

use std::collections::HashSet;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// Most values of one generation.
const MAX_SEEN_VALUES: usize = 20_000;

pub struct SeenOnce {
    /// Shortest time for which a value is stored.
    retention_secs: u64,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashSet<[u8; 32]>,
    old: HashSet<[u8; 32]>,
    /// Start of the young generation, in seconds since 1970.
    started: u64,
}

impl SeenOnce {
    pub fn new(retention_secs: u64) -> Self {
        Self { retention_secs, generations: Mutex::default() }
    }

    /// Whether this pair is seen for the first time. (`a`, `bc`) and (`ab`, `c`) are different pairs.
    pub fn is_first(&self, parts: [&str; 2], now: u64) -> bool {
        let value = digest(parts);
        let mut generations = self.generations.lock();
        let Generations { young, old, started } = &mut *generations;
        let age = now.saturating_sub(*started);
        if age >= self.retention_secs || young.len() >= MAX_SEEN_VALUES {
            *old = std::mem::take(young);
            if age >= self.retention_secs.saturating_mul(2) {
                old.clear();
            }
            *started = now;
        }
        !old.contains(&value) && young.insert(value)
    }
}

/// A hash that differs for different pairs.
pub fn digest(parts: [&str; 2]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_a_value_once() {
        let once = SeenOnce::new(600);
        assert!(once.is_first(["a", "b"], 1000));
        for now in [1000, 1300, 1599, 1600, 2199] {
            assert!(!once.is_first(["a", "b"], now), "{now}");
        }
        assert!(once.is_first(["ab", ""], 1000), "parts are separate");
        assert!(once.is_first(["a", "b"], 5000), "forgotten after the retention");
    }

    #[test]
    fn memory_is_bounded() {
        let once = SeenOnce::new(600);
        for number in 0..5 * MAX_SEEN_VALUES {
            assert!(once.is_first([&number.to_string(), ""], 1000));
        }
        let generations = once.generations.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * MAX_SEEN_VALUES);
    }
}
