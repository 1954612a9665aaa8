//! The state of a client's connection.

use crate::error::Error;

/// The state of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// No subscription and no pending reply.
    Idle,
    /// A connection is being opened.
    Connecting,
    /// The gateway accepted the connection.
    Connected,
    /// The last connection ended with this error; the next attempt follows.
    Waiting(Error),
    /// Ended with an error that a retry cannot fix.
    Failed(Error),
    /// Ended by [`crate::Client::close`].
    Closed,
}
