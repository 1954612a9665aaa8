//! The protocol of one kind of connection: its reaction to each message of the client.

use std::task::{Context, Poll};

use crate::protocol::CloseReason;
use crate::protocol::websocket::Bounds;

/// Handles the messages of one connection. An error closes the connection.
pub trait Handler: Send + Unpin + 'static {
    /// Limits of the next inbound message.
    fn bounds(&self) -> Bounds;

    /// A message or control frame arrived: rate limits count here. Control frames have a limit of their own besides.
    fn on_frame(&mut self) -> Result<(), CloseReason>;

    fn on_text(&mut self, text: &str) -> Result<(), CloseReason>;

    fn on_binary(&mut self, _bytes: &[u8]) -> Result<(), CloseReason> {
        Err(CloseReason::UnsupportedData)
    }

    /// The peer sent a Close with this payload (RFC 6455 section 5.5.1).
    fn on_close(&mut self, _payload: &[u8]) {}

    /// The connection is closing: the peer receives no further frames. May be called more than once.
    fn on_end(&mut self) {}

    /// All messages of one read were handled.
    fn on_read_end(&mut self) {}

    /// Pending while no further input may be read.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// The task was woken: the policy may have changed.
    fn on_wake(&mut self) -> Result<(), CloseReason> {
        Ok(())
    }
}
