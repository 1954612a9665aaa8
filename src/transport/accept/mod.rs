//! Accepting connections: listeners, TLS, PROXY protocol, HTTP/2, connection limits.

pub mod connection_limits;
pub mod http2;
pub mod listener;
pub mod proxy_protocol;
pub mod starting;
pub mod stream_limits;
pub mod tls;
pub mod write_deadline;
