//! The state of a client's connection.

use crate::error::Error;

/// What a client is at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Nothing is asked for.
    Idle,
    /// On its way to the gateway.
    Connecting,
    /// There is a connection.
    Connected,
    /// The last connection ended like this; the next try is soon.
    Waiting(Error),
    /// Over, because trying again does not help.
    Failed(Error),
    /// Over by [`crate::Client::close`].
    Closed,
}
