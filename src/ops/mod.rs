//! Running it: phases, metrics, logs.

pub mod config;
pub mod lifecycle;
pub mod log;
pub mod metrics;

pub use lifecycle::{Lifecycle, Phase};
