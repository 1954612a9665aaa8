//! Whether Redis carries what this node sends: a probe a second, to itself.

use std::time::{Duration, Instant};

use metrics::{Gauge, gauge};
use parking_lot::Mutex;

/// Without a probe for so long, nothing is carried.
const SILENCE: Duration = Duration::from_secs(3);

/// So many in a row before all is well again.
const GOOD: u32 = 2;

pub struct Canary {
    state: Mutex<State>,
    gauge: Gauge,
}

#[derive(Default)]
struct State {
    is_up: bool,
    in_a_row: u32,
    seen: Option<Instant>,
}

impl Canary {
    /// To be made where the recorder is current. The first probe is enough at the start.
    pub fn new() -> Self {
        let state = State { in_a_row: GOOD - 1, ..State::default() };
        Self { state: Mutex::new(state), gauge: gauge!("lastmile_engine_up") }
    }

    /// A probe came back.
    pub fn seen(&self, now: Instant) {
        let mut state = self.state.lock();
        state.forget_silence(now);
        state.seen = Some(now);
        state.in_a_row = state.in_a_row.saturating_add(1);
        state.is_up |= state.in_a_row >= GOOD;
        self.gauge.set(f64::from(u8::from(state.is_up)));
    }

    pub fn is_up(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.forget_silence(now);
        self.gauge.set(f64::from(u8::from(state.is_up)));
        state.is_up
    }
}

impl State {
    fn forget_silence(&mut self, now: Instant) {
        if self.seen.is_some_and(|seen| now.saturating_duration_since(seen) >= SILENCE) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_down_after_three_seconds_and_up_after_two_probes() {
        let (canary, start) = (Canary::new(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        assert!(!canary.is_up(at(0)));
        canary.seen(at(0));
        assert!(canary.is_up(at(2)) && !canary.is_up(at(3)));
        canary.seen(at(10));
        assert!(!canary.is_up(at(10)));
        canary.seen(at(11));
        assert!(canary.is_up(at(11)));
        // Probes that are far from each other are not in a row.
        canary.seen(at(20));
        assert!(!canary.is_up(at(20)));
    }
}
