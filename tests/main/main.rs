//! The gateway over real sockets, by feature.

#[path = "../common/mod.rs"]
mod common;

mod smoke;
