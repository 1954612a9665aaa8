//! Exponential backoff with full jitter, so that many clients do not reconnect at the same moment.

use std::time::Duration;

use crate::random;

#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, attempts: 0 }
    }

    /// Returns the wait before the next attempt. The gateway's `retry_after` is added to the random part.
    pub(crate) fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let max_wait = self.first.saturating_mul(1 << self.attempts.min(20)).min(self.max);
        self.attempts = self.attempts.saturating_add(1);
        retry_after.unwrap_or_default().saturating_add(max_wait.mul_f64(random::fraction()))
    }

    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_max_and_reset() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, max);
        assert!(backoff.next(None) <= first);
        assert!((0..100).all(|_| backoff.next(None) <= max));
        assert!(backoff.next(Some(Duration::from_secs(5))) >= Duration::from_secs(5));
        backoff.reset();
        assert!(backoff.next(None) <= first);
    }
}
