//! The phases of a connection: open, closing, closed.

use crate::protocol::CloseReason;

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Open,
    /// A Close frame is the last frame in the outbox.
    Closing(CloseReason),
    /// Nothing more is written.
    Closed(CloseReason),
}
