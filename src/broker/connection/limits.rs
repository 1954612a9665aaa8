//! The limits of one connection.

use std::time::Duration;

/// Limits of one connection's outgoing side, and its deadlines.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Bytes that may wait for the socket.
    pub outbox_bytes: usize,
    /// Frames that may wait for the socket.
    pub outbox_frames: usize,
    /// How long the socket may accept nothing while frames wait.
    pub stall: Duration,
    /// How long the peer may take to read the outbox and to answer a Close.
    pub close: Duration,
    /// Silence after which a peer is pinged.
    pub ping: Duration,
    /// From a ping to the next input of the peer.
    pub pong: Duration,
    /// Code and text of the Close for a silent peer, which is then never pinged: an older protocol's behaviour.
    pub close_silent_without_ping: Option<(u16, &'static str)>,
}
