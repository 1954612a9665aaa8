//! Metrics of the broker. Their names are part of the contract with operators.

use metrics::{Counter, Gauge, counter, gauge};

/// Metric handles: counting is one atomic addition.
pub struct Counters {
    pub publications: Counter,
    pub deliveries: Counter,
    pub slow_consumers: Counter,
    pub channels: Gauge,
    pub max_channels: Gauge,
    pub waiting_names: Gauge,
    pub max_waiting_names: Gauge,
    pub subscriptions: Gauge,
    pub backlog_bytes: Gauge,
}

impl Default for Counters {
    /// Registers with the current recorder.
    fn default() -> Self {
        Self {
            publications: counter!("lastmile_publications_total"),
            deliveries: counter!("lastmile_deliveries_total"),
            slow_consumers: counter!("lastmile_slow_consumers_total"),
            channels: gauge!("lastmile_channels"),
            max_channels: gauge!("lastmile_channels_max"),
            waiting_names: gauge!("lastmile_waiting_names"),
            max_waiting_names: gauge!("lastmile_waiting_names_max"),
            subscriptions: gauge!("lastmile_subscriptions"),
            backlog_bytes: gauge!("lastmile_backlog_bytes"),
        }
    }
}
