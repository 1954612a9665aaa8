//! Operations: lifecycle, metrics, statsd, log.

pub mod config;
pub mod lifecycle;
pub mod log;
pub mod metrics;
pub mod statsd;

pub use lifecycle::{Lifecycle, Phase};
pub use statsd::{RoomEvent, Statsd};
