//! How old an issuer's keys are, for metrics and, once they grow old, for the log.

use std::sync::atomic::{AtomicBool, Ordering};

use ::metrics::{Gauge, gauge};

use super::JwksCache;

pub struct JwksMetrics {
    age: Gauge,
    stale: Gauge,
    warned: AtomicBool,
}

impl JwksMetrics {
    /// Measures where the recorder is current.
    pub fn new(issuer: &str) -> Self {
        let issuer = issuer.to_owned();
        Self {
            age: gauge!("lastmile_issuer_keys_age_seconds", "issuer" => issuer.clone()),
            stale: gauge!("lastmile_issuer_keys_stale", "issuer" => issuer),
            warned: AtomicBool::new(false),
        }
    }

    /// `now` in seconds since 1970. Keys that never came are stale, and have no age.
    pub fn update(&self, ring: &JwksCache, now: u64) {
        let age = ring.latest().map(|keys| keys.age(now));
        let is_stale = age.is_none_or(|age| ring.is_stale(age));
        self.age.set(age.unwrap_or(0) as f64);
        self.stale.set(if is_stale { 1.0 } else { 0.0 });
        // That none have come yet is told by whoever fetches them.
        let was_stale = self.warned.swap(is_stale && age.is_some(), Ordering::Relaxed);
        if let Some(age_secs) = age.filter(|_| is_stale && !was_stale) {
            tracing::warn!(issuer = %ring.issuer, age_secs, "the issuer's keys have grown old; see jwks_max_age_secs");
        }
    }
}

impl Drop for JwksMetrics {
    /// The issuer is gone: a series stays, but raises no alarm.
    fn drop(&mut self) {
        self.age.set(0.0);
        self.stale.set(0.0);
    }
}
