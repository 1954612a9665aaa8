//! The roles `flock` and `flock-publish`: unchanged subscribers and publishers of that system.

pub mod publish;
pub mod subscribe;
