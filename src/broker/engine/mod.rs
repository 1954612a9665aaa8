//! The interface of an engine: the order of publications, their backlog, and the limits of channels.

mod future;
pub mod node_bus;
pub mod shared_store;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

pub use self::future::EngineFuture;
use self::node_bus::NodeBus;
use self::shared_store::SharedStore;
use super::ChannelLimits;
use super::channel::delivery::Deliveries;
use super::channel::fanout::Backpressure;
use super::channel::hub::{JoinRequest, Membership};
use super::holder::Holder;
use crate::protocol::{ChannelName, ErrorCode, Payload, Position, Publication, Refusal};

/// The time of a call, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For lifespans and ages.
    pub monotonic: Instant,
    /// For clients and logs.
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

    /// Milliseconds since 1970.
    pub fn unix_millis(&self) -> u64 {
        self.wall.as_millisecond().try_into().unwrap_or(0)
    }
}

/// A publication with its offset.
pub struct Accepted {
    pub position: Position,
    pub deliveries: Deliveries,
}

/// The result of an append.
pub enum Appended {
    /// The publication has its offset. The caller runs the deliveries.
    Done(Accepted),
    /// The publication is not delivered until it is stored. If the sender is dropped, the outcome is unknown.
    Pending(oneshot::Receiver<Result<Stored, Refusal>>),
}

/// A publication with its offset, which the engine has delivered to this node's subscribers.
pub struct Stored {
    pub position: Position,
    /// To be waited for before the next publication.
    pub backpressure: Option<Backpressure>,
}

/// A slot in the subscriber quota of a channel, reserved until this is dropped. Engines for one node reserve none.
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

/// Where a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the next publication.
    Live,
    /// With this many publications of the backlog.
    Backlog(u64),
    /// With the publications after a position.
    Since(Position),
}

/// The answer to a subscriber, before its first publication.
pub struct Joined<'a> {
    pub position: Position,
    /// No publication is missing after the requested start.
    pub recovered: bool,
    pub history: &'a [Arc<Publication>],
}

/// The state of a channel, or of a name that subscribers wait for.
#[derive(Clone, Debug)]
pub struct ChannelState {
    pub position: Position,
    pub data_bytes: u64,
    pub subscribers: u64,
    /// No publisher has made the channel.
    pub is_waiting: bool,
    pub created: jiff::Timestamp,
    pub limits: ChannelLimits,
}

/// The result of creating a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    New,
    /// The channel was created before with the same limits.
    Again,
}

/// Order and backlog of channels. A commit and the fan-out of its publication are one step, so every subscriber receives
/// offsets in order.
///
/// Methods that run for every publication or subscription return at once where they can. The others may wait.
pub trait Engine: Send + Sync + 'static {
    /// Assigns the next offset to a publication. The first publication creates the channel.
    fn append(
        &self,
        channel: &ChannelName,
        publisher: &str,
        payload: Payload<'_>,
        now: Now,
    ) -> Result<Appended, Refusal>;

    /// To be awaited before [`Engine::subscribe`]; `None` if that can be called at once. The slot is to be kept until it has
    /// returned.
    fn prepare_subscribe(
        &self,
        _channel: &ChannelName,
        _holder: Holder,
    ) -> Option<EngineFuture<'static, SubscriberSlot>> {
        None
    }

    /// Joins a subscriber. `on_joined` is called before its first delivery. A subscriber makes no channel: it waits for
    /// the name until a publisher does.
    fn subscribe(
        &self,
        channel: &ChannelName,
        request: JoinRequest,
        start: Start,
        now: Now,
        on_joined: &mut dyn FnMut(Joined<'_>),
    ) -> Result<Membership, Refusal>;

    /// Creates a channel. `limits` must not be wider than the configured ones, which `None` takes.
    fn create<'a>(
        &'a self,
        channel: &'a ChannelName,
        limits: Option<ChannelLimits>,
        now: Now,
    ) -> EngineFuture<'a, Created>;

    /// `None` if there is no such channel and no subscriber waits for it.
    fn describe<'a>(&'a self, channel: &'a ChannelName) -> EngineFuture<'a, Option<ChannelState>>;

    /// The publisher of the message at a position of a channel with replies; `None` if it is not known any more.
    fn publisher_of(&self, channel: &ChannelName, position: &Position) -> Option<Arc<str>>;

    /// Ends and removes a channel. `false` if there is none.
    fn close<'a>(&'a self, channel: &'a ChannelName) -> EngineFuture<'a, bool>;

    /// To be called once a second: ends channels that outlived their lifespan and removes unused ones.
    fn sweep(&self, now: Now);

    /// State that all nodes share. An engine for one node keeps it in memory.
    fn shared_store(&self) -> &dyn SharedStore;

    /// The bus to other nodes; `None` for an engine for one node.
    fn node_bus(&self) -> Option<Arc<dyn NodeBus>> {
        None
    }

    /// The reason why publications are refused, as a label; `None` while they are accepted.
    fn unavailable_reason(&self) -> Option<&'static str> {
        None
    }
}

/// Waits for the result of a pending append.
pub async fn stored(answer: oneshot::Receiver<Result<Stored, Refusal>>) -> Result<Stored, Refusal> {
    answer.await.unwrap_or_else(|_| Err(ErrorCode::EngineUnavailable.into()))
}

/// Waits until [`Engine::subscribe`] can be called. The slot is to be kept until it has returned.
pub async fn subscriber_slot(
    engine: &dyn Engine,
    channel: &ChannelName,
    holder: Holder,
) -> Result<SubscriberSlot, Refusal> {
    match engine.prepare_subscribe(channel, holder) {
        Some(slot) => slot.await,
        None => Ok(SubscriberSlot::default()),
    }
}
