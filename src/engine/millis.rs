//! Durations as whole milliseconds, as stores and scripts take them.

use std::time::Duration;

pub fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
