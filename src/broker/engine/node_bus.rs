//! Words from node to node, for what belongs to connections of another node.
//!
//! A word arrives at most once: whoever must know whether it did asks for an answer.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::protocol::{ChannelName, Refusal};

/// Whom a word is for on the node that gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Topic {
    Replies = b'r',
    Rooms = b'm',
    Presence = b'w',
}

/// A word of another node. The bytes of words that wait are counted, so each lives as short as it can.
pub struct NodeMessage {
    /// The node that sent it.
    pub from: String,
    /// Under which an answer is expected; 0 for none.
    pub number: u64,
    pub bytes: Bytes,
    pub permit: OwnedSemaphorePermit,
}

/// Every call is answered with `engine-unavailable` while there is no way to other nodes.
pub trait NodeBus: Send + Sync + 'static {
    /// The name of this node, different for every start: small letters and digits.
    fn node(&self) -> &str;

    /// Asks a node. An error says nothing about whether the word arrived, except [`ErrorCode::NotFound`]: no such node.
    ///
    /// [`ErrorCode::NotFound`]: crate::protocol::ErrorCode::NotFound
    fn request(&self, node: &str, topic: Topic, bytes: &[u8]) -> BoxFuture<'static, Result<Bytes, Refusal>>;

    /// Tells a node something. Words arrive in their order if each is awaited before the next one.
    fn send(&self, node: &str, topic: Topic, bytes: &[u8]) -> BoxFuture<'static, Result<(), Refusal>>;

    /// Answers a word.
    fn answer(&self, word: NodeMessage, bytes: &[u8]) -> BoxFuture<'static, Result<(), Refusal>>;

    /// All words for a topic from now on; whoever asked for them before gets no more.
    fn subscribe(&self, topic: Topic) -> mpsc::UnboundedReceiver<NodeMessage>;

    /// Says that this node has a connection of a publisher. To be said again every few seconds.
    fn register_publisher<'a>(&'a self, publisher: &'a str) -> BoxFuture<'a, Result<(), Refusal>>;

    /// A node has none any more.
    fn unregister_publisher<'a>(&'a self, publisher: &'a str, node: &'a str) -> BoxFuture<'a, Result<(), Refusal>>;

    /// Asks all nodes to tell this one who comes and goes on a channel ([`Observers::watched_by`]), for
    /// [`observers::LEASE`]. Gives how many listen there by now, about.
    ///
    /// [`Observers::watched_by`]: crate::broker::channel::presence::Observers
    /// [`observers::LEASE`]: crate::broker::channel::presence::LEASE
    fn watch_presence<'a>(&'a self, channel: &'a ChannelName) -> BoxFuture<'a, Result<Vec<(String, u64)>, Refusal>>;

    /// The nodes that said that they have a connection of a publisher.
    fn nodes_with_publisher<'a>(&'a self, publisher: &'a str) -> BoxFuture<'a, Result<Vec<String>, Refusal>>;
}
