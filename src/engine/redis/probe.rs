//! Whether Redis carries and keeps what this node sends: two probes a second, one to itself and one to be kept.

use std::time::{Duration, Instant};

use metrics::{Gauge, gauge};
use parking_lot::Mutex;

use super::connection::WriteResult;

/// Without a probe for so long, nothing is carried, or kept.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// So many in a row before all is well again.
const RECOVERY_SUCCESSES: u32 = 2;

/// The reasons not to be ready.
pub const UNAVAILABLE: &str = "engine-unavailable";
const FULL: &str = "engine-full";

pub struct HealthProbe {
    state: Mutex<State>,
    gauge: Gauge,
}

struct State {
    carried: Streak,
    kept: Streak,
    /// The last probe was not kept for want of memory.
    is_full: bool,
    /// When the last one was carried, or this began.
    heard: Instant,
}

struct Streak {
    is_up: bool,
    in_a_row: u32,
    seen: Option<Instant>,
}

impl HealthProbe {
    /// To be made where the recorder is current. The first probes are enough at the start.
    pub fn new() -> Self {
        let new = || Streak { is_up: false, in_a_row: RECOVERY_SUCCESSES - 1, seen: None };
        let state = State { carried: new(), kept: new(), is_full: false, heard: Instant::now() };
        Self { state: Mutex::new(state), gauge: gauge!("lastmile_engine_up") }
    }

    /// A probe came back.
    pub fn seen(&self, now: Instant) {
        let mut state = self.state.lock();
        state.heard = now;
        state.carried.record(now);
        self.show(&mut state, now);
    }

    /// What came of keeping one.
    pub fn written(&self, written: WriteResult, now: Instant) {
        let mut state = self.state.lock();
        state.is_full = written == WriteResult::Full;
        if written == WriteResult::Done {
            state.kept.record(now);
        }
        self.show(&mut state, now);
    }

    /// Why nothing can be published, in one word.
    pub fn unavailable_reason(&self, now: Instant) -> Option<&'static str> {
        self.show(&mut self.state.lock(), now)
    }

    /// Whether what others publish comes here.
    pub fn is_carried(&self, now: Instant) -> bool {
        self.state.lock().carried.is_up(now)
    }

    /// For how long nothing was carried.
    pub fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.state.lock().heard)
    }

    fn show(&self, state: &mut State, now: Instant) -> Option<&'static str> {
        let trouble = match (state.carried.is_up(now), state.kept.is_up(now)) {
            (true, true) => None,
            (true, false) if state.is_full => Some(FULL),
            _ => Some(UNAVAILABLE),
        };
        self.gauge.set(f64::from(u8::from(trouble.is_none())));
        trouble
    }
}

impl Streak {
    fn record(&mut self, now: Instant) {
        self.forget_silence(now);
        self.seen = Some(now);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.is_up |= self.in_a_row >= RECOVERY_SUCCESSES;
    }

    fn is_up(&mut self, now: Instant) -> bool {
        self.forget_silence(now);
        self.is_up
    }

    fn forget_silence(&mut self, now: Instant) {
        if self.seen.is_some_and(|seen| now.saturating_duration_since(seen) >= PROBE_TIMEOUT) {
            *self = Self { is_up: false, in_a_row: 0, seen: None };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_down_after_three_seconds_and_up_after_two_probes() {
        let (canary, start) = (HealthProbe::new(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        let beat = |secs| {
            canary.seen(at(secs));
            canary.written(WriteResult::Done, at(secs));
        };
        assert_eq!(canary.unavailable_reason(at(0)), Some(UNAVAILABLE));
        beat(0);
        assert_eq!((canary.unavailable_reason(at(2)), canary.unavailable_reason(at(3))), (None, Some(UNAVAILABLE)));
        beat(10);
        assert_eq!(canary.unavailable_reason(at(10)), Some(UNAVAILABLE));
        beat(11);
        assert_eq!(canary.unavailable_reason(at(11)), None);
        // Probes that are far from each other are not in a row.
        beat(20);
        assert_eq!(canary.unavailable_reason(at(20)), Some(UNAVAILABLE));
    }

    #[test]
    fn what_is_carried_and_not_kept_is_trouble_with_its_name() {
        let (canary, start) = (HealthProbe::new(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        canary.written(WriteResult::Done, at(0));
        for (written, why) in [(WriteResult::Full, FULL), (WriteResult::Failed, UNAVAILABLE)] {
            for secs in 0..=3 {
                canary.seen(at(secs));
                canary.written(written, at(secs));
                assert_eq!(canary.unavailable_reason(at(secs)).is_none(), secs < 3 && why == FULL);
            }
            assert_eq!(canary.unavailable_reason(at(3)), Some(why));
        }
        assert!(canary.is_carried(at(3)) && canary.silent_for(at(4)) == Duration::from_secs(1));
    }
}
