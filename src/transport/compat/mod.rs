//! Endpoints for unchanged clients of four older systems.

pub mod channelserver;
pub mod flock;
pub mod heartbeat;
pub mod relay;
pub mod tslm;
