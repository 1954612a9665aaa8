//! Running it: phases, metrics, logs.

pub mod lifecycle;

pub use lifecycle::{Lifecycle, Phase};
