//! What may count once: states of logins and ids of logout tokens, remembered while they could come again.
//!
//! Two generations bound memory. A flood can push a value out early, but the code behind a state is good once at its
//! provider too, and a logout that is told twice ends nothing more.

use std::collections::HashSet;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// Values of one generation.
const MAX_SEEN_VALUES: usize = 20_000;

pub struct SeenOnce {
    /// Seconds that a value is remembered, at least.
    keep: u64,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashSet<[u8; 32]>,
    old: HashSet<[u8; 32]>,
    /// When the young generation began, in seconds since 1970.
    began: u64,
}

impl SeenOnce {
    pub fn new(keep: u64) -> Self {
        Self { keep, generations: Mutex::default() }
    }

    /// Whether this value comes for the first time. The parts are told apart.
    pub fn is_first(&self, parts: [&str; 2], now: u64) -> bool {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let value = digest.finalize().into();
        let mut generations = self.generations.lock();
        let Generations { young, old, began } = &mut *generations;
        let age = now.saturating_sub(*began);
        if age >= self.keep || young.len() >= MAX_SEEN_VALUES {
            *old = std::mem::take(young);
            if age >= self.keep.saturating_mul(2) {
                old.clear();
            }
            *began = now;
        }
        !old.contains(&value) && young.insert(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_o2_a_value_counts_once_while_it_is_remembered() {
        let once = SeenOnce::new(600);
        assert!(once.is_first(["a", "b"], 1000));
        for now in [1000, 1300, 1599, 1600, 2199] {
            assert!(!once.is_first(["a", "b"], now), "{now}");
        }
        assert!(once.is_first(["ab", ""], 1000), "parts do not run together");
        assert!(once.is_first(["a", "b"], 5000), "forgotten after its time");
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
