//! Sockets and HTTP. The only place that knows warp.

pub mod config;
pub mod proxy;
