//! Metrics of the age of an issuer's keys, and a log line when they become stale.

use std::sync::atomic::{AtomicBool, Ordering};

use ::metrics::{Gauge, gauge};

use super::JwksCache;

pub struct JwksMetrics {
    age: Gauge,
    stale: Gauge,
    warned: AtomicBool,
}

impl JwksMetrics {
    /// Registers with the current recorder.
    pub fn new(issuer: &str) -> Self {
        let issuer = issuer.to_owned();
        Self {
            age: gauge!("lastmile_issuer_keys_age_seconds", "issuer" => issuer.clone()),
            stale: gauge!("lastmile_issuer_keys_stale", "issuer" => issuer),
            warned: AtomicBool::new(false),
        }
    }

    /// `now` in seconds since 1970. Keys that were never fetched are stale and have age 0.
    pub fn update(&self, jwks: &JwksCache, now: u64) {
        let age = jwks.latest().map(|keys| keys.age(now));
        let is_stale = age.is_none_or(|age| jwks.is_stale(age));
        self.age.set(age.unwrap_or(0) as f64);
        self.stale.set(if is_stale { 1.0 } else { 0.0 });
        // The fetch task already logs that no keys have arrived.
        let was_stale = self.warned.swap(is_stale && age.is_some(), Ordering::Relaxed);
        if let Some(age_secs) = age.filter(|_| is_stale && !was_stale) {
            tracing::warn!(issuer = %jwks.issuer, age_secs, "issuer keys are stale (jwks_max_age_secs)");
        }
    }
}

impl Drop for JwksMetrics {
    /// The issuer was removed. Its series remain, so reset them to values without an alarm.
    fn drop(&mut self) {
        self.age.set(0.0);
        self.stale.set(0.0);
    }
}
