//! Operations: lifecycle, metrics, statsd, log, file descriptors.

pub mod config;
pub mod descriptors;
pub mod lifecycle;
pub mod log;
pub mod metrics;
pub mod statsd;

pub use lifecycle::{Lifecycle, Phase};
pub use statsd::{RoomEvent, Statsd};
