//! Logouts of each person, so that one person cannot fill the revocations.
//!
//! Two generations bound memory. A flood of persons can forget a count early, and then counts itself.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Most persons of one generation.
const MAX_PERSONS: usize = 20_000;

/// Issuer and subject.
type Person = (Box<str>, Box<str>);

#[derive(Default)]
pub struct LogoutShare(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Person, u64>,
    old: HashMap<Person, u64>,
    /// Start of the young generation, in seconds since 1970.
    started: u64,
}

impl LogoutShare {
    /// Counts a logout. Returns the logouts of this person within the last `retention_secs` or longer.
    pub fn count(&self, issuer: &str, subject: &str, retention_secs: u64, now: u64) -> u64 {
        let person: Person = (issuer.into(), subject.into());
        let mut generations = self.0.lock();
        let Generations { young, old, started } = &mut *generations;
        if now.saturating_sub(*started) >= retention_secs || young.len() >= MAX_PERSONS {
            *old = std::mem::take(young);
            *started = now;
        }
        let before = old.get(&person).copied().unwrap_or(0);
        let count = young.entry(person).or_default();
        *count += 1;
        before + *count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_person_in_bounded_memory() {
        let share = LogoutShare::default();
        assert_eq!([1000, 1000, 1100].map(|now| share.count("i", "alice", 100, now)), [1, 2, 3]);
        assert_eq!(share.count("i", "bob", 100, 1100), 1);
        assert_eq!(share.count("i", "alice", 100, 1200), 2, "the oldest generation is forgotten");
        for n in 0..3 * MAX_PERSONS {
            share.count("i", &n.to_string(), 100, 1200);
        }
        let generations = share.0.lock();
        assert!(generations.young.len() <= MAX_PERSONS && generations.old.len() <= MAX_PERSONS);
    }
}
