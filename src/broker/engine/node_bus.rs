//! The node bus: messages between nodes, for connections of another node.
//!
//! A message arrives at most once. A sender that must know whether it arrived sends a request.

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::future::EngineFuture;
use crate::protocol::ChannelName;

/// The subscriber of a message on the receiving node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Topic {
    Replies = b'r',
    Rooms = b'm',
    Presence = b'w',
}

/// A message of another node. The bytes of unhandled messages are bounded, so each is to be dropped as early as possible.
pub struct NodeMessage {
    /// Name of the sender.
    pub from: String,
    /// Number of the request; 0 for a message that expects no response.
    pub number: u64,
    pub bytes: Bytes,
    pub permit: OwnedSemaphorePermit,
}

/// All methods refuse with `engine-unavailable` while other nodes cannot be reached.
pub trait NodeBus: Send + Sync + 'static {
    /// Name of this node, different for every start: lower-case letters and digits.
    fn node(&self) -> &str;

    /// Sends a request and waits for the response. After an error it is unknown whether the request arrived, except after
    /// [`ErrorCode::NotFound`]: there is no such node.
    ///
    /// [`ErrorCode::NotFound`]: crate::protocol::ErrorCode::NotFound
    fn request(&self, node: &str, topic: Topic, bytes: &[u8]) -> EngineFuture<'static, Bytes>;

    /// Sends a message. Messages arrive in order if each is awaited before the next one is sent.
    fn send(&self, node: &str, topic: Topic, bytes: &[u8]) -> EngineFuture<'static, ()>;

    /// Responds to a request.
    fn respond(&self, request: NodeMessage, bytes: &[u8]) -> EngineFuture<'static, ()>;

    /// All messages of a topic from now on, in place of an earlier subscriber.
    fn subscribe(&self, topic: Topic) -> mpsc::UnboundedReceiver<NodeMessage>;

    /// Records that this node has a connection of a publisher. To be called again every few seconds.
    fn register_publisher<'a>(&'a self, publisher: &'a str) -> EngineFuture<'a, ()>;

    /// Records that a node has no connection of a publisher.
    fn unregister_publisher<'a>(&'a self, publisher: &'a str, node: &'a str) -> EngineFuture<'a, ()>;

    /// Requests presence updates of a channel from all nodes, for [`PRESENCE_LEASE`]. Returns the approximate number of
    /// subscribers on each other node.
    ///
    /// [`PRESENCE_LEASE`]: crate::broker::channel::presence::PRESENCE_LEASE
    fn watch_presence<'a>(&'a self, channel: &'a ChannelName) -> EngineFuture<'a, Vec<(String, u64)>>;

    /// The nodes that have a connection of a publisher.
    fn nodes_with_publisher<'a>(&'a self, publisher: &'a str) -> EngineFuture<'a, Vec<String>>;
}
