//! The node bus: messages between nodes, for connections of another node.
//!
//! A message arrives at most once. A sender that must know whether it arrived sends a request.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::protocol::{ChannelName, Refusal};

/// The subject of a message: selects the task that handles it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Topic {
    Replies = b'r',
    Rooms = b'm',
    Presence = b'w',
}

/// A message of another node. Waiting messages count against a limit of bytes: drop each soon.
pub struct NodeMessage {
    /// The node that sent it.
    pub from: String,
    /// Number of the request that a response needs; 0 if none is expected.
    pub number: u64,
    pub bytes: Bytes,
    /// The reserved bytes of this message.
    pub permit: OwnedSemaphorePermit,
}

/// Every call fails with `engine-unavailable` while other nodes cannot be reached.
pub trait NodeBus: Send + Sync + 'static {
    /// The name of this node, different for every start: small letters and digits.
    fn node(&self) -> &str;

    /// Sends a request to a node and waits for the response. An error leaves open whether it arrived, except [`ErrorCode::NotFound`]: no such node.
    ///
    /// [`ErrorCode::NotFound`]: crate::protocol::ErrorCode::NotFound
    fn request(&self, node: &str, topic: Topic, bytes: &[u8]) -> BoxFuture<'static, Result<Bytes, Refusal>>;

    /// Sends a message to a node. Messages arrive in order if each is awaited before the next one.
    fn send(&self, node: &str, topic: Topic, bytes: &[u8]) -> BoxFuture<'static, Result<(), Refusal>>;

    /// Responds to a request.
    fn answer(&self, request: NodeMessage, bytes: &[u8]) -> BoxFuture<'static, Result<(), Refusal>>;

    /// Receives all messages of a topic from now on; an earlier subscription of the topic ends.
    fn subscribe(&self, topic: Topic) -> mpsc::UnboundedReceiver<NodeMessage>;

    /// Registers that this node has a connection of a publisher. To be renewed every few seconds.
    fn register_publisher<'a>(&'a self, publisher: &'a str) -> BoxFuture<'a, Result<(), Refusal>>;

    /// Removes the registration of a node.
    fn unregister_publisher<'a>(&'a self, publisher: &'a str, node: &'a str) -> BoxFuture<'a, Result<(), Refusal>>;

    /// Requests presence updates of a channel from all nodes ([`Hub::add_remote_watcher`]) for [`PRESENCE_LEASE`].
    /// Returns the current counts of the nodes that respond in time.
    ///
    /// [`Hub::add_remote_watcher`]: crate::broker::Hub::add_remote_watcher
    /// [`PRESENCE_LEASE`]: crate::broker::channel::presence::PRESENCE_LEASE
    fn watch_presence<'a>(&'a self, channel: &'a ChannelName) -> BoxFuture<'a, Result<Vec<(String, u64)>, Refusal>>;

    /// The nodes that are registered for a publisher.
    fn nodes_with_publisher<'a>(&'a self, publisher: &'a str) -> BoxFuture<'a, Result<Vec<String>, Refusal>>;
}
