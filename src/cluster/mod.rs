//! Coordination between nodes: membership, pushed policy, presence, replies and rooms. Knows no socket and no HTTP.

pub mod membership;
pub mod presence;
pub mod pushed_policy;
pub mod replies;
pub mod rooms;
