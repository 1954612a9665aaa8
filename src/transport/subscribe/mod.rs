//! Subscribers: over WebSocket, and by the fallbacks server-sent events, JSON lines and long polling.
//!
//! To the broker, a fallback is a connection whose socket accepts nothing. Its frames wait in the outbox, under the same
//! limits, until the response body takes them.

pub mod feed;
pub mod poll;
pub mod query;
pub mod sse;
pub mod websocket;

pub use poll::poll;
pub use sse::events;
