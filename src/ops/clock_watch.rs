//! Notices that the wall clock was set while the process runs.

use std::time::Instant;

use jiff::Timestamp;
use metrics::{Counter, counter};

/// A smaller difference between two looks is a late look, or a clock that is being slewed.
const MIN_STEP_SECS: i64 = 3;

pub struct ClockWatch {
    last: (Instant, Timestamp),
    steps: Counter,
}

impl ClockWatch {
    pub fn new(steady: Instant, wall: Timestamp) -> Self {
        Self { last: (steady, wall), steps: counter!("lastmile_clock_steps_total") }
    }

    /// To be called once a second. Returns by how many seconds the wall clock was set ahead since the last call, if it was
    /// set; negative if it was set back.
    pub fn look(&mut self, steady: Instant, wall: Timestamp) -> Option<i64> {
        let (last_steady, last_wall) = std::mem::replace(&mut self.last, (steady, wall));
        let elapsed = i64::try_from(steady.duration_since(last_steady).as_millis()).unwrap_or(i64::MAX);
        let step = (wall.as_millisecond() - last_wall.as_millisecond() - elapsed) / 1000;
        if step.abs() < MIN_STEP_SECS {
            return None;
        }
        self.steps.increment(1);
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn set_clock_is_noticed_once() {
        let (steady, second) = (Instant::now(), Duration::from_secs(1));
        let wall = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let mut watch = ClockWatch::new(steady, wall(0));
        for (after, shown, expected) in
            [(1, 1, None), (2, 2, None), (3, 3 - 600, Some(-600)), (4, 4 - 600, None), (5, 5 + 30, Some(630))]
        {
            assert_eq!(watch.look(steady + second * after, wall(shown)), expected, "{after}");
        }
        // A late look, and a clock that is slewed.
        assert_eq!(watch.look(steady + second * 95, wall(126)), None);
    }
}
