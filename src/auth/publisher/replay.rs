//! Replay window: the used nonces of one publisher that could be sent again.
//!
//! Invariant: dropping a nonce raises the floor above its `created`. So dropped nonces stay stale, even if the clock
//! jumps back.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::signature::MAX_SKEW_SECS;
use crate::protocol::{ErrorCode, Refusal};

/// Nonces are dropped in groups that were created within the same 16 seconds.
const GENERATION_SECS: u64 = 16;

/// Half of a SHA-256: bounds the memory of a nonce, and collisions of 128 bits are infeasible.
type NonceHash = [u8; 16];

/// Stores at most `limit` nonces, about 40 bytes each.
#[derive(Debug)]
pub struct ReplayWindow {
    limit: usize,
    /// By `created / GENERATION_SECS`. No generation is empty.
    generations: BTreeMap<u64, HashSet<NonceHash>>,
    /// Signatures created before this are stale.
    floor: u64,
}

impl ReplayWindow {
    pub fn new(limit: usize) -> Self {
        Self { limit, generations: BTreeMap::new(), floor: 0 }
    }

    /// Consumes a nonce. `created` and `now` are seconds since 1970.
    ///
    /// Call it only for a valid signature and digest, so that only the publisher can fill the window. Refuses a stored
    /// nonce with `signature-replayed`, one that may have been dropped with `signature-stale`, and any nonce with
    /// `rate-limited` while the window is full.
    pub fn insert(&mut self, created: u64, nonce: &str, now: u64) -> Result<(), Refusal> {
        self.forget_expired(now);
        if created < self.floor {
            return Err(Refusal::new(ErrorCode::SignatureStale, "signature is older than the replay window"));
        }
        let hash = hash_of(nonce);
        // Every generation is searched: a nonce must not return with another `created` either.
        if self.generations.values().any(|generation| generation.contains(&hash)) {
            return Err(Refusal::new(
                ErrorCode::SignatureReplayed,
                "nonce was already used; sign each request with a new nonce of at least 16 random bytes",
            ));
        }
        if self.len() >= self.limit {
            return Err(self.full(now));
        }
        self.generations.entry(created / GENERATION_SECS).or_default().insert(hash);
        Ok(())
    }

    /// Number of stored nonces.
    fn len(&self) -> usize {
        self.generations.values().map(HashSet::len).sum()
    }

    fn forget_expired(&mut self, now: u64) {
        while let Some(oldest) = self.generations.first_entry() {
            let end = end_of(*oldest.key());
            if now < end + MAX_SKEW_SECS {
                break;
            }
            oldest.remove();
            self.floor = self.floor.max(end);
        }
    }

    fn full(&self, now: u64) -> Refusal {
        let free_at = self.generations.keys().next().map_or(now, |oldest| end_of(*oldest) + MAX_SKEW_SECS);
        let detail = "replay window of this key is full (replay_nonces); send several messages under one signature, \
                      or publish over a WebSocket";
        Refusal::new(ErrorCode::RateLimited, detail)
            .retry_after(Duration::from_secs(free_at.saturating_sub(now).max(1)))
    }
}

/// The first second after a generation.
fn end_of(generation: u64) -> u64 {
    (generation + 1) * GENERATION_SECS
}

fn hash_of(nonce: &str) -> NonceHash {
    let mut hash = NonceHash::default();
    hash.copy_from_slice(&Sha256::digest(nonce)[..16]);
    hash
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn code(result: Result<(), Refusal>) -> Option<ErrorCode> {
        result.err().map(|refusal| refusal.code)
    }

    #[test]
    fn nonce_is_accepted_once_while_fresh() {
        for offset in [-60_i64, -1, 0, 1, 60] {
            let created = NOW.saturating_add_signed(offset);
            let mut window = ReplayWindow::new(10);
            assert_eq!(window.insert(created, "a", NOW), Ok(()));
            for now in NOW..=created + MAX_SKEW_SECS {
                assert_eq!(
                    code(window.insert(created, "a", now)),
                    Some(ErrorCode::SignatureReplayed),
                    "{offset} {now}"
                );
            }
        }
    }

    #[test]
    fn nonce_with_other_time_is_a_replay() {
        let mut window = ReplayWindow::new(10);
        window.insert(NOW - 50, "a", NOW).unwrap();
        assert_eq!(code(window.insert(NOW + 50, "a", NOW)), Some(ErrorCode::SignatureReplayed));
    }

    #[test]
    fn clock_jump_does_not_reopen_window() {
        let mut window = ReplayWindow::new(10);
        window.insert(NOW, "a", NOW).unwrap();
        window.insert(NOW + 3600, "b", NOW + 3600).unwrap();
        assert_eq!(code(window.insert(NOW, "a", NOW)), Some(ErrorCode::SignatureStale));
        assert_eq!(window.len(), 1, "the first one is dropped");
    }

    #[test]
    fn full_window_has_retry_after() {
        let mut window = ReplayWindow::new(2);
        window.insert(NOW, "a", NOW).unwrap();
        window.insert(NOW, "b", NOW).unwrap();
        let refusal = window.insert(NOW, "c", NOW).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::RateLimited);
        assert_eq!(code(window.insert(NOW, "a", NOW)), Some(ErrorCode::SignatureReplayed), "a replay stays one");

        let later = NOW + refusal.retry_after.unwrap().as_secs();
        assert_eq!(code(window.insert(later - 1, "c", later - 1)), Some(ErrorCode::RateLimited));
        assert_eq!(window.insert(later, "c", later), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        const LIMIT: usize = 20_000;
        let mut window = ReplayWindow::new(LIMIT);
        let mut accepted = 0_u32;
        for number in 0..1_000_000_u64 {
            let now = NOW + number / 1000;
            accepted += u32::from(window.insert(now, &number.to_string(), now).is_ok());
            assert!(window.len() <= LIMIT);
        }
        assert!(accepted >= 200_000, "{accepted}");
        let slots: usize = window.generations.values().map(HashSet::capacity).sum();
        assert!(slots <= 4 * LIMIT, "{slots} slots for {LIMIT} nonces");
    }

    proptest! {
        /// A signed request (creation time and nonce) is accepted once, for any movement of the clock.
        #[test]
        fn no_request_is_accepted_twice(
            steps in prop::collection::vec((-200_i64..200, -60_i64..=60, 0_u8..20), 1..200),
            limit in 1_usize..30,
        ) {
            let mut window = ReplayWindow::new(limit);
            let mut now = NOW;
            let mut accepted = HashSet::new();
            let mut sent = Vec::new();
            for (tick, offset, nonce) in steps {
                now = now.saturating_add_signed(tick);
                sent.push((now.saturating_add_signed(offset), nonce));
                for (created, nonce) in &sent {
                    let fresh = created.abs_diff(now) <= MAX_SKEW_SECS;
                    if fresh && window.insert(*created, &nonce.to_string(), now).is_ok() {
                        prop_assert!(accepted.insert((*created, *nonce)));
                    }
                }
                prop_assert!(window.len() <= limit);
            }
        }

        /// With a steady clock and enough capacity, every fresh nonce is accepted.
        #[test]
        fn fresh_nonce_is_accepted(steps in prop::collection::vec((0_u64..100, -60_i64..=60), 1..200)) {
            let mut window = ReplayWindow::new(1000);
            let mut now = NOW;
            for (number, (tick, offset)) in steps.into_iter().enumerate() {
                now += tick;
                let created = now.saturating_add_signed(offset);
                prop_assert_eq!(window.insert(created, &number.to_string(), now), Ok(()));
            }
        }
    }
}
