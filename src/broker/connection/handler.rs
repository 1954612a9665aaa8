//! The interface between a connection's task and the protocol that its client speaks.

use std::task::{Context, Poll};

use crate::protocol::CloseReason;
use crate::protocol::websocket::Bounds;

/// Message handling of one kind of connection; an error closes the connection.
pub trait Handler: Send + Unpin + 'static {
    fn bounds(&self) -> Bounds;

    /// Called once per data frame, before its message is complete: the hook for rate limits.
    fn on_frame(&mut self) -> Result<(), CloseReason>;

    fn on_text(&mut self, text: &str) -> Result<(), CloseReason>;

    fn on_binary(&mut self, _bytes: &[u8]) -> Result<(), CloseReason> {
        Err(CloseReason::UnsupportedData)
    }

    /// The peer sent a Close frame with this payload (RFC 6455 section 5.5.1).
    fn on_close(&mut self, _payload: &[u8]) {}

    /// The connection is closing: frames sent from now on do not reach the peer. May be called again.
    fn on_end(&mut self) {}

    /// All messages of one socket read were handed over.
    fn on_read_end(&mut self) {}

    /// Ready while more messages may be read.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// The task was woken, possibly by a policy change.
    fn on_wake(&mut self) -> Result<(), CloseReason> {
        Ok(())
    }
}
