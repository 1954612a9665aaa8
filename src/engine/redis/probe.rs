//! Health probes: each second this node publishes a message to itself and writes a key.

use std::time::{Duration, Instant};

use metrics::{Gauge, gauge};
use parking_lot::Mutex;

use super::connection::WriteResult;

/// After this long without a probe that returned, or that was written, Redis counts as unavailable.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Probes in a row until Redis counts as available again.
const RECOVERY_SUCCESSES: u32 = 2;

/// Reasons for not being ready.
pub const UNAVAILABLE: &str = "engine-unavailable";
const FULL: &str = "engine-full";

pub struct HealthProbe {
    state: Mutex<ProbeState>,
    gauge: Gauge,
}

struct ProbeState {
    /// Probes that came back over the pub/sub.
    carried: Streak,
    /// Probes that were written.
    kept: Streak,
    /// The last write failed for lack of memory.
    is_full: bool,
    /// Time of the last probe that came back, at first of the start.
    last_carried: Instant,
}

struct Streak {
    is_up: bool,
    successes: u32,
    seen: Option<Instant>,
}

impl HealthProbe {
    /// Registers its metric with the current recorder. At the start one probe is enough.
    pub fn new() -> Self {
        let new = || Streak { is_up: false, successes: RECOVERY_SUCCESSES - 1, seen: None };
        let state = ProbeState { carried: new(), kept: new(), is_full: false, last_carried: Instant::now() };
        Self { state: Mutex::new(state), gauge: gauge!("lastmile_engine_up") }
    }

    /// A probe came back.
    pub fn seen(&self, now: Instant) {
        let mut state = self.state.lock();
        state.last_carried = now;
        state.carried.record(now);
        self.update(&mut state, now);
    }

    /// The result of writing a probe.
    pub fn written(&self, written: WriteResult, now: Instant) {
        let mut state = self.state.lock();
        state.is_full = written == WriteResult::Full;
        if written == WriteResult::Done {
            state.kept.record(now);
        }
        self.update(&mut state, now);
    }

    /// Why nothing can be published, as a label.
    pub fn unavailable_reason(&self, now: Instant) -> Option<&'static str> {
        self.update(&mut self.state.lock(), now)
    }

    /// Whether publications of other nodes arrive here.
    pub fn is_carried(&self, now: Instant) -> bool {
        self.state.lock().carried.is_up(now)
    }

    /// Time since the last probe that came back.
    pub fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.state.lock().last_carried)
    }

    fn update(&self, state: &mut ProbeState, now: Instant) -> Option<&'static str> {
        let reason = match (state.carried.is_up(now), state.kept.is_up(now)) {
            (true, true) => None,
            (true, false) if state.is_full => Some(FULL),
            _ => Some(UNAVAILABLE),
        };
        self.gauge.set(f64::from(u8::from(reason.is_none())));
        reason
    }
}

impl Streak {
    fn record(&mut self, now: Instant) {
        self.reset_if_silent(now);
        self.seen = Some(now);
        self.successes = self.successes.saturating_add(1);
        self.is_up |= self.successes >= RECOVERY_SUCCESSES;
    }

    fn is_up(&mut self, now: Instant) -> bool {
        self.reset_if_silent(now);
        self.is_up
    }

    fn reset_if_silent(&mut self, now: Instant) {
        if self.seen.is_some_and(|seen| now.saturating_duration_since(seen) >= PROBE_TIMEOUT) {
            *self = Self { is_up: false, successes: 0, seen: None };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn down_after_three_seconds_up_after_two_probes() {
        let (health, start) = (HealthProbe::new(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        let probe = |secs| {
            health.seen(at(secs));
            health.written(WriteResult::Done, at(secs));
        };
        assert_eq!(health.unavailable_reason(at(0)), Some(UNAVAILABLE));
        probe(0);
        assert_eq!((health.unavailable_reason(at(2)), health.unavailable_reason(at(3))), (None, Some(UNAVAILABLE)));
        probe(10);
        assert_eq!(health.unavailable_reason(at(10)), Some(UNAVAILABLE));
        probe(11);
        assert_eq!(health.unavailable_reason(at(11)), None);
        // Probes more than the timeout apart are not in a row.
        probe(20);
        assert_eq!(health.unavailable_reason(at(20)), Some(UNAVAILABLE));
    }

    #[test]
    fn carried_but_not_kept_has_its_own_reason() {
        let (health, start) = (HealthProbe::new(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        health.written(WriteResult::Done, at(0));
        for (written, why) in [(WriteResult::Full, FULL), (WriteResult::Failed, UNAVAILABLE)] {
            for secs in 0..=3 {
                health.seen(at(secs));
                health.written(written, at(secs));
                assert_eq!(health.unavailable_reason(at(secs)).is_none(), secs < 3 && why == FULL);
            }
            assert_eq!(health.unavailable_reason(at(3)), Some(why));
        }
        assert!(health.is_carried(at(3)) && health.silent_for(at(4)) == Duration::from_secs(1));
    }
}
