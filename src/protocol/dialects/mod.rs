//! The words of older systems, translated at the edge.

pub mod tslm;
