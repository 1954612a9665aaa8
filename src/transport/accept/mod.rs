//! Accepting connections: listeners, TLS, PROXY protocol, checks of HTTP/1 heads, HTTP/2, connection limits.

pub mod connection_limits;
pub mod head_check;
pub mod http2;
pub mod listener;
pub mod proxy_protocol;
pub mod socket_file;
pub mod starting;
pub mod stream_limits;
pub mod tls;
pub mod write_deadline;
