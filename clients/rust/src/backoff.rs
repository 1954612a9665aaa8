//! How long to wait before the next try: exponential with full jitter, so that many clients do not come in one wave.

use std::time::Duration;

use crate::random;

#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    tries: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, tries: 0 }
    }

    /// Until the next try; what the gateway asks for comes on top.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let ceiling = self.first.saturating_mul(1 << self.tries.min(20)).min(self.longest);
        self.tries = self.tries.saturating_add(1);
        asked.unwrap_or_default().saturating_add(ceiling.mul_f64(random::fraction()))
    }

    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_longest_and_begin_anew() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, longest);
        assert!(backoff.next(None) <= first);
        assert!((0..100).all(|_| backoff.next(None) <= longest));
        assert!(backoff.next(Some(Duration::from_secs(5))) >= Duration::from_secs(5));
        backoff.reset();
        assert!(backoff.next(None) <= first);
    }
}
