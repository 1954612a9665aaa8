//! Checks of counts, bytes and seconds.

use std::time::Duration;

use crate::config::path::Path;
use crate::config::report::Report;

// The maxima keep sums of limits from overflowing, and times within the range of a clock.
const MAX_COUNT: u64 = u32::MAX as u64;
const MAX_BYTES: u64 = 1 << 40;
const MAX_SECS: u64 = 10 * 366 * 24 * 3600;

/// Checks the numbers of one table. Each method takes the minimum and returns the value, also after reporting it.
pub struct Numbers<'a> {
    table: Path,
    report: &'a mut Report,
}

impl<'a> Numbers<'a> {
    pub fn new(table: Path, report: &'a mut Report) -> Self {
        Self { table, report }
    }

    pub fn wrong(&mut self, key: &str, value: u64, right: impl std::fmt::Display) {
        self.report.wrong(&self.table.key(key), value, right);
    }

    pub fn count(&mut self, key: &str, value: u64, min: u64) -> u64 {
        self.within(key, value, min, MAX_COUNT)
    }

    pub fn bytes(&mut self, key: &str, value: u64, min: u64) -> u64 {
        self.within(key, value, min, MAX_BYTES)
    }

    pub fn secs(&mut self, key: &str, value: u64, min: u64) -> Duration {
        Duration::from_secs(self.within(key, value, min, MAX_SECS))
    }

    pub fn u32(&mut self, key: &str, value: u64, min: u64) -> u32 {
        u32::try_from(self.count(key, value, min)).unwrap_or(u32::MAX)
    }

    /// A count of at least one, as the bound of a collection.
    pub fn usize_min1(&mut self, key: &str, value: u64) -> usize {
        usize::try_from(self.count(key, value, 1)).unwrap_or(usize::MAX)
    }

    /// A number of bytes in memory.
    pub fn byte_size(&mut self, key: &str, value: u64, min: u64) -> usize {
        usize::try_from(self.bytes(key, value, min)).unwrap_or(usize::MAX)
    }

    fn within(&mut self, key: &str, value: u64, min: u64, max: u64) -> u64 {
        if value < min {
            self.wrong(key, value, format_args!("must be at least {min}"));
        } else if value > max {
            self.wrong(key, value, format_args!("must be at most {max}"));
        }
        value
    }
}
