//! `GET /v1/events` and `GET /v1/poll`: subscribers whom no WebSocket reaches, on the same broker.
//!
//! To the broker a fallback is a connection like any other, of which the socket takes nothing: what it is sent waits in
//! its outbox, under the same limits, until the answer's body takes it.

pub mod feed;
pub mod poll;
pub mod query;
pub mod sse;
pub mod websocket;

pub use poll::poll;
pub use sse::events;
