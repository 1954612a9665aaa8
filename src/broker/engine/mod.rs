//! The engine trait: order of publications, backlogs, and limits of channels.

pub mod node_bus;
pub mod shared_store;

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use self::node_bus::NodeBus;
use self::shared_store::SharedStore;
use super::ChannelLimits;
use super::channel::delivery::Deliveries;
use super::channel::fanout::Backpressure;
use super::channel::hub::{JoinRequest, Membership};
use crate::protocol::{ChannelName, ErrorCode, Payload, Position, Publication, Refusal};

/// The time of a call, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For lifespans and ages.
    pub monotonic: Instant,
    /// For timestamps that clients see.
    pub wall: jiff::Timestamp,
}

impl Now {
    pub fn read() -> Self {
        Self { monotonic: Instant::now(), wall: jiff::Timestamp::now() }
    }

    /// Seconds since 1970.
    pub fn unix(&self) -> u64 {
        self.wall.as_second().try_into().unwrap_or(0)
    }
}

/// A publication with its offset.
pub struct Accepted {
    pub position: Position,
    pub deliveries: Deliveries,
}

/// The result of appending a publication.
pub enum Appended {
    /// The offset is assigned; the caller runs the deliveries.
    Done(Accepted),
    /// Not delivered until it is stored. If the sender is dropped, the outcome is unknown.
    Pending(oneshot::Receiver<Result<Stored, Refusal>>),
}

/// A publication that is stored; the engine delivers it to this node's subscribers.
pub struct Stored {
    pub position: Position,
    /// The shard that the publisher should wait for, if one is behind.
    pub backpressure: Option<Backpressure>,
}

/// A reservation for one subscriber in the quota of a channel, until this is dropped. Most engines reserve nothing.
#[derive(Default)]
pub struct SubscriberSlot {
    _guard: Option<Box<dyn Send + Sync>>,
}

impl SubscriberSlot {
    /// Reserved until `guard` is dropped.
    pub fn kept_by(guard: impl Send + Sync + 'static) -> Self {
        Self { _guard: Some(Box::new(guard)) }
    }
}

/// The first publication that a subscriber requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The next one.
    Live,
    /// The newest publications of the backlog, at most so many.
    Backlog(u64),
    /// All publications after a position.
    Since(Position),
}

/// The data of a subscription before its first live publication.
pub struct Joined<'a> {
    pub position: Position,
    /// No publication is missing since the requested start.
    pub recovered: bool,
    pub history: &'a [Arc<Publication>],
}

/// The state of a channel.
#[derive(Clone, Debug)]
pub struct ChannelState {
    pub position: Position,
    pub data_bytes: u64,
    pub subscribers: u64,
    pub created: jiff::Timestamp,
    pub limits: ChannelLimits,
}

/// The result of creating a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    New,
    /// The channel exists with the same limits.
    Again,
}

/// Assigns offsets and keeps backlogs. Appending and queueing for the hub is one step, so each subscriber receives
/// offsets in order.
///
/// Methods on the path of every publication and subscription return at once where they can; the others may wait.
pub trait Engine: Send + Sync + 'static {
    /// Appends a publication. The first publication creates the channel.
    fn append(
        &self,
        channel: &ChannelName,
        publisher: &str,
        payload: Payload<'_>,
        now: Now,
    ) -> Result<Appended, Refusal>;

    /// To be awaited before [`Engine::subscribe`]; `None` if that can be called at once. The slot has to be kept until
    /// it returned.
    fn prepare_subscribe(&self, channel: &ChannelName) -> Option<BoxFuture<'static, Result<SubscriberSlot, Refusal>>>;

    /// Adds a subscriber. `on_joined` is called before its first live publication.
    fn subscribe(
        &self,
        channel: &ChannelName,
        request: JoinRequest,
        start: Start,
        now: Now,
        on_joined: &mut dyn FnMut(Joined<'_>),
    ) -> Result<Membership, Refusal>;

    /// Creates a channel with the lower of `limits` and the configured limits; `None` for the configured ones.
    fn create<'a>(
        &'a self,
        channel: &'a ChannelName,
        limits: Option<ChannelLimits>,
        now: Now,
    ) -> BoxFuture<'a, Result<Created, Refusal>>;

    /// `None` if there is no such channel.
    fn describe<'a>(&'a self, channel: &'a ChannelName) -> BoxFuture<'a, Result<Option<ChannelState>, Refusal>>;

    /// The publisher of the message at a position of a channel with replies; `None` once it is not known any more.
    fn publisher_of(&self, channel: &ChannelName, position: &Position) -> Option<Arc<str>>;

    /// Ends a channel and deletes it. `false` if there is none.
    fn close<'a>(&'a self, channel: &'a ChannelName) -> BoxFuture<'a, Result<bool, Refusal>>;

    /// To be called once a second: ends channels past their lifespan and evicts idle ones.
    fn sweep(&self, now: Now);

    /// The shared store; `None` for an engine of one node.
    fn shared_store(&self) -> Option<&dyn SharedStore> {
        None
    }

    /// The node bus; `None` for an engine of one node.
    fn node_bus(&self) -> Option<Arc<dyn NodeBus>> {
        None
    }

    /// The reason why publications are refused now, as one word; `None` while available.
    fn unavailable_reason(&self) -> Option<&'static str> {
        None
    }
}

/// Waits for the result of a pending [`Engine::append`].
pub async fn stored(result: oneshot::Receiver<Result<Stored, Refusal>>) -> Result<Stored, Refusal> {
    result.await.unwrap_or_else(|_| Err(ErrorCode::EngineUnavailable.into()))
}

/// Waits until [`Engine::subscribe`] can be called. The slot has to be kept until it returned.
pub async fn subscriber_slot(engine: &dyn Engine, channel: &ChannelName) -> Result<SubscriberSlot, Refusal> {
    match engine.prepare_subscribe(channel) {
        Some(slot) => slot.await,
        None => Ok(SubscriberSlot::default()),
    }
}
