//! What the broker asks of an engine: the order of publications, their memory, and the limits of channels.

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
    /// For people.
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

/// A publication that has its place.
pub struct Accepted {
    pub position: Position,
    pub deliveries: Deliveries,
}

/// What came of appending a publication.
pub enum Appended {
    /// It has its place; its walks are the caller's to run.
    Done(Accepted),
    /// It is on its way to where it is kept. Nobody gets it before that, and a sender that is dropped says that it
    /// is unknown whether it arrived.
    Pending(oneshot::Receiver<Result<Stored, Refusal>>),
}

/// A publication that has its place and was handed to this node's subscribers by the engine.
pub struct Stored {
    pub position: Position,
    /// Where the publisher ought to wait, if anywhere.
    pub backpressure: Option<Backpressure>,
}

/// A place of a channel that is kept for a newcomer until this is dropped. Most engines keep none.
#[derive(Default)]
pub struct SubscriberSlot {
    _guard: Option<Box<dyn Send + Sync>>,
}

impl SubscriberSlot {
    /// Kept as long as `guard` lives.
    pub fn kept_by(guard: impl Send + Sync + 'static) -> Self {
        Self { _guard: Some(Box::new(guard)) }
    }
}

/// From where a subscriber wants to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// From now on.
    Live,
    /// With the newest so many publications.
    Backlog(u64),
    /// With everything behind a position.
    Since(Position),
}

/// What a subscriber is told before the first publication.
pub struct Joined<'a> {
    pub position: Position,
    /// Nothing is missing between the start that was asked for and now.
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

/// What came of creating a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    New,
    /// It was created before with the same limits.
    Again,
}

/// Order and memory of channels. Appending is one step with handing the publication to the hub, so offsets reach
/// every member in order.
///
/// What is called for every publication and subscription answers at once where it can; the rest may wait.
pub trait Engine: Send + Sync + 'static {
    /// Gives a publication its place. A channel comes into being with its first publication.
    fn append(
        &self,
        channel: &ChannelName,
        publisher: &str,
        payload: Payload<'_>,
        now: Now,
    ) -> Result<Appended, Refusal>;

    /// What has to be waited for before [`Engine::subscribe`] can be called; `None` if nothing has. The place is to be
    /// kept until that returned.
    fn prepare_subscribe(&self, channel: &ChannelName) -> Option<BoxFuture<'static, Result<SubscriberSlot, Refusal>>>;

    /// Makes a member of `newcomer`. `announce` is called before any publication can reach it.
    fn subscribe(
        &self,
        channel: &ChannelName,
        newcomer: JoinRequest,
        start: Start,
        now: Now,
        announce: &mut dyn FnMut(Joined<'_>),
    ) -> Result<Membership, Refusal>;

    /// Creates a channel, with limits no wider than `narrowed` says; `None` takes what is configured.
    fn create<'a>(
        &'a self,
        channel: &'a ChannelName,
        limits: Option<ChannelLimits>,
        now: Now,
    ) -> BoxFuture<'a, Result<Created, Refusal>>;

    /// `None` if there is no such channel.
    fn describe<'a>(&'a self, channel: &'a ChannelName) -> BoxFuture<'a, Result<Option<ChannelState>, Refusal>>;

    /// Who published the message at a position of a channel that takes replies; `None` if that is not known any more.
    fn publisher_of(&self, channel: &ChannelName, position: &Position) -> Option<Arc<str>>;

    /// Ends a channel and forgets it. `false` if there is none.
    fn close<'a>(&'a self, channel: &'a ChannelName) -> BoxFuture<'a, Result<bool, Refusal>>;

    /// To be called once a second: ends what has outlived its lifespan and forgets what nobody uses.
    fn sweep(&self, now: Now);

    /// What all nodes remember together; `None` for an engine of one node.
    fn shared_store(&self) -> Option<&dyn SharedStore> {
        None
    }

    /// The way to other nodes; `None` for an engine of one node.
    fn node_bus(&self) -> Option<Arc<dyn NodeBus>> {
        None
    }

    /// Why no publications are taken now, in one word; `None` while all is well.
    fn unavailable_reason(&self) -> Option<&'static str> {
        None
    }
}

/// Waits for what [`Engine::append`] promised. Gives where the publisher ought to wait, with the position.
pub async fn stored(answer: oneshot::Receiver<Result<Stored, Refusal>>) -> Result<Stored, Refusal> {
    answer.await.unwrap_or_else(|_| Err(ErrorCode::EngineUnavailable.into()))
}

/// Waits until [`Engine::subscribe`] can be called. The place is to be kept until that returned.
pub async fn subscriber_slot(engine: &dyn Engine, channel: &ChannelName) -> Result<SubscriberSlot, Refusal> {
    match engine.prepare_subscribe(channel) {
        Some(attached) => attached.await,
        None => Ok(SubscriberSlot::default()),
    }
}
