//! Wire formats of the older protocols: channelserver, flock, relay, tslm.

pub mod channelserver;
pub mod flock;
pub mod relay;
pub mod tslm;
