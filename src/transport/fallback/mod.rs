//! `GET /v1/events` and `GET /v1/poll`: subscribers whom no WebSocket reaches, on the same broker.
//!
//! To the broker a fallback is a connection like any other, of which the socket takes nothing: what it is sent waits in
//! its outbox, under the same limits, until the answer's body takes it.

mod asked;
mod events;
mod feed;
mod poll;

pub use events::events;
pub use poll::poll;
