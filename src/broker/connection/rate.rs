//! A rate limit as one moment in time: the generic cell rate algorithm (ITU-T I.371, a leaky bucket as a meter).

use std::time::{Duration, Instant};

/// Allows `per_second` events a second on average, and `burst` at once after a pause.
#[derive(Clone, Debug)]
pub struct RateLimit {
    per_second: u32,
    burst: u32,
    /// When the bucket is full again; a time in the past means full.
    full_at: Option<Instant>,
}

impl RateLimit {
    /// `per_second` of 0 means no limit; `burst` is at least 1.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst: burst.max(1), full_at: None }
    }

    /// Counts one event, or returns the time until one is allowed. A refused event is not counted.
    pub fn try_take(&mut self, now: Instant) -> Result<(), Duration> {
        if self.per_second == 0 {
            return Ok(());
        }
        let interval = Duration::from_secs(1) / self.per_second;
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + interval;
        let debt = full_at - now;
        match debt.checked_sub(interval * self.burst) {
            None | Some(Duration::ZERO) => {
                self.full_at = Some(full_at);
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_one_per_interval() {
        let start = Instant::now();
        let mut limit = RateLimit::new(10, 3);
        for _ in 0..3 {
            assert_eq!(limit.try_take(start), Ok(()));
        }
        assert_eq!(limit.try_take(start), Err(Duration::from_millis(100)));
        assert_eq!(limit.try_take(start + Duration::from_millis(99)), Err(Duration::from_millis(1)));
        assert_eq!(limit.try_take(start + Duration::from_millis(100)), Ok(()));
        assert!(limit.try_take(start + Duration::from_millis(100)).is_err());
    }

    #[test]
    fn returned_wait_is_enough() {
        let mut now = Instant::now();
        let mut limit = RateLimit::new(7, 1);
        for _ in 0..100 {
            if let Err(wait) = limit.try_take(now) {
                now += wait;
                assert_eq!(limit.try_take(now), Ok(()));
            }
        }
    }

    #[test]
    fn pause_restores_one_burst() {
        let start = Instant::now();
        let mut limit = RateLimit::new(1000, 5);
        let takes = |limit: &mut RateLimit, at| (0..100).filter(|_| limit.try_take(at).is_ok()).count();
        assert_eq!(takes(&mut limit, start), 5);
        assert_eq!(takes(&mut limit, start + Duration::from_secs(3600)), 5);
    }

    #[test]
    fn average_rate_is_exact() {
        let start = Instant::now();
        let mut limit = RateLimit::new(50, 1);
        let passed =
            (0..10_000).filter(|millisecond| limit.try_take(start + Duration::from_millis(*millisecond)).is_ok());
        assert_eq!(passed.count(), 500);
    }

    #[test]
    fn extreme_limits_do_not_overflow() {
        let now = Instant::now();
        for (per_second, burst) in [(0, 0), (1, u32::MAX), (u32::MAX, u32::MAX), (u32::MAX, 0)] {
            let mut limit = RateLimit::new(per_second, burst);
            assert!((0..10).all(|_| limit.try_take(now).is_ok()), "{per_second} with {burst}");
        }
    }

    #[test]
    fn clock_going_back_refuses() {
        let start = Instant::now();
        let mut limit = RateLimit::new(1, 1);
        assert!(limit.try_take(start + Duration::from_secs(10)).is_ok());
        assert_eq!(limit.try_take(start), Err(Duration::from_secs(11)));
    }
}
