//! The words of older systems, translated at the edge.

pub mod flock;
pub mod pairsona;
pub mod relay;
pub mod tslm;
