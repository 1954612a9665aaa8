//! Replay window: the used nonces of one publisher that could be sent again.
//!
//! Invariant: dropping a nonce raises the floor above its `created`. So dropped nonces stay stale, even if the clock
//! jumps back by less than two minutes. After a larger jump the dropped ones count as forgotten by a restart.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::signature::MAX_SKEW_SECS;
use crate::protocol::{ErrorCode, Refusal};

/// Nonces are dropped in groups that were created within the same 16 seconds.
const GENERATION_SECS: u64 = 16;

/// Half of a SHA-256: bounds the memory of a nonce, and collisions of 128 bits are infeasible.
type NonceHash = [u8; 16];

/// Expired nonces that are kept while there is room, so that they are known if the clock is set back. Few, because each
/// may be a generation of its own, and every generation is searched.
const MAX_EXPIRED_NONCES: usize = 256;

/// After a start that forgot nonces, signatures from the future are refused for this long.
const START_SECS: u64 = MAX_SKEW_SECS;

/// How far ahead the clock of a publisher may be during [`START_SECS`].
const START_TOLERANCE_SECS: u64 = 2;

/// Stores at most `limit` nonces, about 40 bytes each.
#[derive(Debug)]
pub struct ReplayWindow {
    limit: usize,
    /// By `created / GENERATION_SECS`. No generation is empty.
    generations: BTreeMap<u64, HashSet<NonceHash>>,
    /// Signatures created before this are stale.
    floor: u64,
    /// The start, if nonces that were used before it are not known.
    start: Option<u64>,
}

impl ReplayWindow {
    /// All nonces that were ever used are known: there are none.
    pub fn new(limit: usize) -> Self {
        Self { limit, generations: BTreeMap::new(), floor: 0, start: None }
    }

    /// Forgets the nonces of signatures that were created before a time.
    pub fn forget_before(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
    }

    /// Forgets all nonces that were used before `start`. A signature from the future may be one of them.
    pub fn forget_until(&mut self, start: u64) {
        (self.floor, self.start) = (start, Some(start));
    }

    /// Consumes a nonce. `created` and `now` are seconds since 1970.
    ///
    /// Call it only for a valid signature and digest, so that only the publisher can fill the window. Refuses a stored
    /// nonce with `signature-replayed`, one that may have been forgotten with `signature-stale`, and any nonce with
    /// `rate-limited` while the window is full.
    pub fn insert(&mut self, created: u64, nonce: &str, now: u64) -> Result<(), Refusal> {
        self.forget_expired(now);
        // No floor is further ahead than a signature may be, unless the clock was set back. Requests would be refused for
        // as long as it was set back, so this counts as a start.
        if self.floor > now.saturating_add(MAX_SKEW_SECS) {
            self.forget_until(now);
        }
        let hash = hash_of(nonce);
        // Every generation is searched: a nonce must not return with another `created` either.
        if self.generations.values().any(|generation| generation.contains(&hash)) {
            return Err(Refusal::new(
                ErrorCode::SignatureReplayed,
                "nonce was already used; sign each request with a new nonce of at least 16 random bytes",
            ));
        }
        if created < self.floor {
            let detail = "signature is older than the start of the gateway's replay window";
            return Err(stale(detail, self.floor - created, now));
        }
        if let Some(end) = self.start.map(|start| start.saturating_add(START_SECS))
            && now < end
            && created > now.saturating_add(START_TOLERANCE_SECS)
        {
            return Err(stale("signature is from the future, and the gateway has just started", end - now, now));
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

    /// Forgets expired nonces beyond [`MAX_EXPIRED_NONCES`], and all that stand in the way of a new one.
    fn forget_expired(&mut self, now: u64) {
        let is_expired = |generation: u64| now >= end_of(generation) + MAX_SKEW_SECS;
        let of_expired = self.generations.iter().take_while(|(generation, _)| is_expired(**generation));
        let (mut all, mut expired) = (self.len(), of_expired.map(|(_, nonces)| nonces.len()).sum::<usize>());
        while expired > MAX_EXPIRED_NONCES || (expired > 0 && all >= self.limit) {
            let Some((generation, nonces)) = self.generations.pop_first() else { return };
            (all, expired) = (all - nonces.len(), expired - nonces.len());
            self.floor = self.floor.max(end_of(generation));
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

/// A refusal of a signature that was not accepted before, as far as its publisher is honest: a new one is accepted later.
fn stale(detail: &str, wait_secs: u64, now: u64) -> Refusal {
    let detail = format!("{detail}; its clock shows {now}; sign the request again");
    Refusal::new(ErrorCode::SignatureStale, detail).retry_after(Duration::from_secs(wait_secs))
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
        for (limit, expected) in [(1, ErrorCode::SignatureStale), (10, ErrorCode::SignatureReplayed)] {
            let mut window = ReplayWindow::new(limit);
            window.insert(NOW, "a", NOW).unwrap();
            window.insert(NOW + 120, "b", NOW + 120).unwrap();
            assert_eq!(window.len(), limit.min(2), "the first one is kept if there is room");
            assert_eq!(code(window.insert(NOW, "a", NOW + 10)), Some(expected));
        }
    }

    #[test]
    fn set_back_clock_does_not_lock_out() {
        for limit in [1000, 30] {
            let mut window = ReplayWindow::new(limit);
            let ahead = NOW + 600;
            for number in 0..40 {
                let now = ahead + 5 * number;
                window.insert(now, &number.to_string(), now).unwrap();
            }
            // The clock is right again.
            assert_eq!(window.insert(NOW, "right", NOW), Ok(()), "{limit}");
            let later = ahead + 5 * 39;
            assert_eq!(
                code(window.insert(later, "39", later)),
                Some(ErrorCode::SignatureReplayed),
                "known ones stay used"
            );
        }
    }

    #[test]
    fn start_accepts_what_was_signed_after_it() {
        let mut window = ReplayWindow::new(1000);
        window.forget_until(NOW);
        for (created, now, wait) in [
            (NOW - 1, NOW, Some(1)),
            (NOW - 30, NOW + 20, Some(30)),
            (NOW + 50, NOW + 10, Some(50)),
            (NOW + 13, NOW + 10, Some(50)),
            (NOW, NOW, None),
            (NOW + 12, NOW + 10, None),
            (NOW + 5, NOW + 59, None),
            (NOW + 110, NOW + 60, None),
        ] {
            let refusal = window.insert(created, &format!("{created} {now}"), now).err();
            assert_eq!(refusal.as_ref().map(|refusal| refusal.code), wait.map(|_| ErrorCode::SignatureStale));
            let waits = refusal.and_then(|refusal| refusal.retry_after).map(|wait| wait.as_secs());
            assert_eq!(waits, wait, "{created} {now}");
        }
        let mut continued = ReplayWindow::new(1000);
        continued.forget_before(NOW + 11);
        assert_eq!(code(continued.insert(NOW + 10, "a", NOW)), Some(ErrorCode::SignatureStale));
        assert_eq!(continued.insert(NOW + 11, "a", NOW), Ok(()));
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
        /// A signed request (creation time and nonce) is accepted once, for any movement of the clock by less than two minutes.
        #[test]
        fn no_request_is_accepted_twice(
            steps in prop::collection::vec((-200_i64..200, -60_i64..=60, 0_u8..20), 1..200),
            limit in 1_usize..30,
        ) {
            let mut window = ReplayWindow::new(limit);
            let mut now = NOW;
            let mut accepted = HashSet::new();
            let mut sent = Vec::new();
            let mut newest = now;
            for (tick, offset, nonce) in steps {
                now = now.saturating_add_signed(tick).max(newest - 110);
                newest = now.max(newest);
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
