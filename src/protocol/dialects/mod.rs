//! The words of older systems, translated at the edge.

pub mod pairsona;
pub mod relay;
pub mod tslm;
