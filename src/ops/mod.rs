//! Operations: lifecycle, metrics, statsd, log, file descriptors.

pub mod clock_watch;
pub mod config;
pub mod descriptors;
pub mod lifecycle;
pub mod log;
pub mod metrics;
pub mod statsd;

pub use clock_watch::ClockWatch;
pub use lifecycle::{Lifecycle, Phase};
pub use statsd::{RoomEvent, Statsd};
