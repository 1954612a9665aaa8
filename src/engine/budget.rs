//! The memory budget of all backlogs, and the fair share of each channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::Gauge;

/// Counts the bytes of every backlog of an engine.
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// Channels with a backlog that is not empty.
    active_channels: AtomicUsize,
    gauge: Gauge,
}

impl Budget {
    /// `limit` in bytes.
    pub fn new(limit: usize, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), active_channels: AtomicUsize::new(0), gauge })
    }

    pub fn is_over(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit
    }

    /// Bytes of each active channel if all had the same. While the budget is exceeded, some channel has more.
    pub fn fair_share(&self) -> usize {
        self.limit / self.active_channels.load(Ordering::Relaxed).max(1)
    }

    /// Records that a backlog changed from `before` bytes to `after`.
    pub fn change(&self, before: usize, after: usize) {
        if after > before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
            self.gauge.increment((after - before) as f64);
        } else if before > after {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
            self.gauge.decrement((before - after) as f64);
        }
        match (before, after) {
            (0, 1..) => drop(self.active_channels.fetch_add(1, Ordering::Relaxed)),
            (1.., 0) => drop(self.active_channels.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }
}
