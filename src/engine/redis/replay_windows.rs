//! Numbers of the messages that each node sent, so that none is handled twice.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::cluster_key::MAX_CLOCK_SKEW;

/// Messages of one node may arrive in another order than they were numbered. More than this are never on their way.
const WINDOW: u64 = 65_536;

/// A message opens for no longer than this after it was sent, on any clock.
const SENDER_RETENTION: Duration = MAX_CLOCK_SKEW.saturating_mul(3);

#[derive(Default)]
pub struct ReplayWindows(HashMap<String, ReplayWindow>);

struct ReplayWindow {
    newest: u64,
    /// One bit for each number of the window, at the number modulo its size.
    seen: Box<[u64]>,
    last_used: Instant,
}

impl ReplayWindows {
    /// Whether `number` of `from` is new. Only authenticated nodes may be passed: each has its own memory.
    pub fn record(&mut self, from: &str, number: u64, now: Instant) -> bool {
        if let Some(window) = self.0.get_mut(from) {
            return window.record(number, now);
        }
        self.0.retain(|_, window| now.duration_since(window.last_used) < SENDER_RETENTION);
        let mut window =
            ReplayWindow { newest: 0, seen: vec![0; (WINDOW / 64) as usize].into_boxed_slice(), last_used: now };
        let is_first = window.record(number, now);
        self.0.insert(from.to_owned(), window);
        is_first
    }
}

impl ReplayWindow {
    fn record(&mut self, number: u64, now: Instant) -> bool {
        if number == 0 || self.newest.saturating_sub(number) >= WINDOW {
            return false;
        }
        if number > self.newest {
            if number - self.newest >= WINDOW {
                self.seen.fill(0);
            } else {
                (self.newest + 1..=number).for_each(|skipped| *self.word(skipped) &= !bit(skipped));
            }
            self.newest = number;
        }
        self.last_used = now;
        let (word, bit) = (self.word(number), bit(number));
        let is_first = *word & bit == 0;
        *word |= bit;
        is_first
    }

    fn word(&mut self, number: u64) -> &mut u64 {
        &mut self.seen[(number % WINDOW / 64) as usize]
    }
}

fn bit(number: u64) -> u64 {
    1 << (number % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_accepted_once() {
        let (mut windows, now) = (ReplayWindows::default(), Instant::now());
        let mut record = |number| windows.record("a", number, now);
        assert!(record(2) && record(1) && !record(1) && !record(2) && !record(0));
        assert!(record(WINDOW + 1) && !record(1) && !record(WINDOW + 1));
        assert!(record(3) && !record(3), "on its way for long");
        assert!(record(10 * WINDOW) && !record(9 * WINDOW) && record(9 * WINDOW + 1));
        assert!(record(u64::MAX) && !record(u64::MAX) && record(u64::MAX - 1));
    }

    #[test]
    fn silent_nodes_are_forgotten_after_their_messages() {
        let (mut windows, now) = (ReplayWindows::default(), Instant::now());
        assert!(windows.record("a", 1, now));
        assert!(windows.record("b", 1, now + SENDER_RETENTION / 2) && windows.0.len() == 2);
        assert!(windows.record("c", 1, now + SENDER_RETENTION) && windows.0.len() == 2);
    }
}
