//! The words of older systems, translated at the edge.

pub mod channelserver;
pub mod flock;
pub mod relay;
pub mod tslm;
