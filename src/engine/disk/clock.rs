//! The store's clock: monotonic while a process runs, and continued by the wall clock between two processes.
//!
//! Setting the wall clock while the gateway runs does not change the age of publications.

use std::time::{Duration, Instant};

use crate::engine::millis::millis;

#[derive(Clone, Copy, Debug)]
pub struct StoreClock {
    /// Reading at `started`, in milliseconds.
    base: u64,
    started: Instant,
}

/// Both clocks at the last commit of a store, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamp {
    pub store: u64,
    /// Since 1970.
    pub wall: u64,
}

impl StoreClock {
    /// Continues from the last commit. If the wall clock was set back since then, no time has passed.
    pub fn resume(last: Stamp, started: Instant, wall: u64) -> Self {
        Self { base: last.store + wall.saturating_sub(last.wall), started }
    }

    /// Reading at a moment, in milliseconds.
    pub fn at(&self, moment: Instant) -> u64 {
        match moment.checked_duration_since(self.started) {
            Some(since) => self.base + millis(since),
            None => self.base.saturating_sub(millis(self.started - moment)),
        }
    }

    /// The moment of a reading.
    pub fn moment(&self, at: u64) -> Instant {
        let before = Duration::from_millis(self.base.saturating_sub(at));
        let after = Duration::from_millis(at.saturating_sub(self.base));
        // An `Instant` cannot be earlier than the machine's clock.
        self.started.checked_sub(before).unwrap_or(self.started) + after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_continue_over_restart_and_clock_change() {
        let (started, second) = (Instant::now(), Duration::from_secs(1));
        let first = StoreClock::resume(Stamp::default(), started, 1_000_000);
        let accepted = first.at(started + second);
        let last = Stamp { store: first.at(started + 5 * second), wall: 1_005_000 };
        let age = |wall| started + 90 * second - StoreClock::resume(last, started + 90 * second, wall).moment(accepted);
        assert_eq!(age(1_005_000), 4 * second, "immediate restart");
        assert_eq!(age(1_015_000), 14 * second, "restart after ten seconds");
        assert_eq!(age(5_000), 4 * second, "wall clock set back");
        // The wall clock was set an hour ahead while the first process ran, so its last stamp is as well.
        let last = Stamp { wall: last.wall + 3_600_000, ..last };
        let clock = StoreClock::resume(last, started + 90 * second, 1_005_000 + 3_600_000);
        assert_eq!(started + 90 * second - clock.moment(accepted), 4 * second);
    }
}
