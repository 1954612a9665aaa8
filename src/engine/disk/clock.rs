//! The store's own time: it runs with the steady clock while a process runs, and by the wall clock between two
//! processes. A wall clock that is set while the gateway runs makes nothing older.

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub struct StoreClock {
    /// What it shows at `started`, in milliseconds.
    base: u64,
    started: Instant,
}

/// What a store keeps of the time of its last commit, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamp {
    pub store: u64,
    /// Since 1970.
    pub wall: u64,
}

impl StoreClock {
    /// Goes on where the last process stopped. A wall clock that was set back since then stands still.
    pub fn resume(last: Stamp, started: Instant, wall: u64) -> Self {
        Self { base: last.store + wall.saturating_sub(last.wall), started }
    }

    /// Milliseconds of this clock at a moment.
    pub fn at(&self, moment: Instant) -> u64 {
        match moment.checked_duration_since(self.started) {
            Some(since) => self.base + millis(since),
            None => self.base.saturating_sub(millis(self.started - moment)),
        }
    }

    /// The moment at which this clock showed so much.
    pub fn moment(&self, at: u64) -> Instant {
        let before = Duration::from_millis(self.base.saturating_sub(at));
        let after = Duration::from_millis(at.saturating_sub(self.base));
        // The clock of a machine need not reach back so far.
        self.started.checked_sub(before).unwrap_or(self.started) + after
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r10_ages_go_on_over_a_restart_whatever_the_wall_clock_did() {
        let (started, second) = (Instant::now(), Duration::from_secs(1));
        let first = StoreClock::resume(Stamp::default(), started, 1_000_000);
        let accepted = first.at(started + second);
        let last = Stamp { store: first.at(started + 5 * second), wall: 1_005_000 };
        let age = |wall| started + 90 * second - StoreClock::resume(last, started + 90 * second, wall).moment(accepted);
        assert_eq!(age(1_005_000), 4 * second, "a restart at once");
        assert_eq!(age(1_015_000), 14 * second, "ten seconds later");
        assert_eq!(age(5_000), 4 * second, "the clock was set back");
        // The clock was set an hour ahead while the first one ran: its last stamp says so.
        let last = Stamp { wall: last.wall + 3_600_000, ..last };
        let clock = StoreClock::resume(last, started + 90 * second, 1_005_000 + 3_600_000);
        assert_eq!(started + 90 * second - clock.moment(accepted), 4 * second);
    }
}
