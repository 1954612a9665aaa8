//! The nonces of one publisher that were used and could be sent again.
//!
//! Invariant: a nonce is forgotten only together with raising the floor above its `created`, so what is
//! forgotten is stale for ever, whatever the clock does afterwards.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::signature::MAX_SKEW_SECS;
use crate::protocol::{ErrorCode, Refusal};

/// Nonces are forgotten in groups of those created in the same 16 seconds.
const GENERATION_SECS: u64 = 16;

/// Half of a SHA-256: nonces have any length, and a collision of 128 bits cannot be found.
type NonceHash = [u8; 16];

/// Remembers at most `limit` nonces, about 40 bytes each.
#[derive(Debug)]
pub struct ReplayWindow {
    limit: usize,
    /// By `created / GENERATION_SECS`. None is empty.
    generations: BTreeMap<u64, HashSet<NonceHash>>,
    /// Everything created before this is stale.
    floor: u64,
}

impl ReplayWindow {
    pub fn new(limit: usize) -> Self {
        Self { limit, generations: BTreeMap::new(), floor: 0 }
    }

    /// Uses up a nonce. `created` and `now` are seconds since 1970.
    ///
    /// Call it only for a request whose signature and digest are good, so that nobody else can fill the window.
    /// Refuses with `signature-replayed` a nonce that is remembered, with `signature-stale` one that may have been
    /// forgotten, and with `rate-limited` when there is no room to remember it.
    pub fn insert(&mut self, created: u64, nonce: &str, now: u64) -> Result<(), Refusal> {
        self.forget_expired(now);
        if created < self.floor {
            return Err(Refusal::new(ErrorCode::SignatureStale, "The signature is older than the gateway remembers."));
        }
        let hash = hash_of(nonce);
        // In every generation: a nonce must not come back under another `created` either.
        if self.generations.values().any(|generation| generation.contains(&hash)) {
            return Err(Refusal::new(
                ErrorCode::SignatureReplayed,
                "The nonce was used before. Sign every request with a fresh nonce of at least 16 random bytes.",
            ));
        }
        if self.len() >= self.limit {
            return Err(self.full(now));
        }
        self.generations.entry(created / GENERATION_SECS).or_default().insert(hash);
        Ok(())
    }

    /// The number of nonces that are remembered.
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
        let room_at = self.generations.keys().next().map_or(now, |oldest| end_of(*oldest) + MAX_SKEW_SECS);
        let detail = "Too many requests of this key in a short time: no more nonces can be remembered. \
                      Send several messages under one signature, or publish over one WebSocket.";
        Refusal::new(ErrorCode::RateLimited, detail)
            .retry_after(Duration::from_secs(room_at.saturating_sub(now).max(1)))
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
    fn a_nonce_is_good_once_for_as_long_as_its_signature_could_be_fresh() {
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
    fn a_nonce_with_another_creation_time_is_still_the_same_nonce() {
        let mut window = ReplayWindow::new(10);
        window.insert(NOW - 50, "a", NOW).unwrap();
        assert_eq!(code(window.insert(NOW + 50, "a", NOW)), Some(ErrorCode::SignatureReplayed));
    }

    #[test]
    fn a_clock_that_jumps_back_does_not_open_the_window_again() {
        let mut window = ReplayWindow::new(10);
        window.insert(NOW, "a", NOW).unwrap();
        window.insert(NOW + 3600, "b", NOW + 3600).unwrap();
        assert_eq!(code(window.insert(NOW, "a", NOW)), Some(ErrorCode::SignatureStale));
        assert_eq!(window.len(), 1, "the first one is forgotten");
    }

    #[test]
    fn a_full_window_refuses_and_says_when_there_is_room() {
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
    fn a_million_nonces_stay_within_their_memory() {
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
        /// Whatever the clock does, one signed request (a creation time and a nonce) is accepted once.
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

        /// With a steady clock and room enough, every fresh nonce is taken.
        #[test]
        fn a_fresh_nonce_is_never_refused(steps in prop::collection::vec((0_u64..100, -60_i64..=60), 1..200)) {
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
