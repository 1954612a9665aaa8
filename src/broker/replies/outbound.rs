//! What has to be done on other nodes for replies, in a queue that has a bound.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::protocol::Refusal;

/// Bytes of errands that are not done. What is too much is not begun: a reply waits on, and a settlement is refused.
const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;

/// What an errand takes besides its data.
const TASK_OVERHEAD_BYTES: usize = 256;

pub enum RemoteTask {
    /// A reply whose publisher is not here is to be shown to it ([`Replies::show`]); if that fails, it is to be given
    /// back ([`Replies::give_back`]).
    ///
    /// [`Replies::show`]: super::Replies::show
    /// [`Replies::give_back`]: super::Replies::give_back
    Forward { publisher: Arc<str>, name: Arc<str>, json: Arc<str> },
    /// What a publisher said about a reply that `node` keeps ([`Replies::settle`]).
    ///
    /// [`Replies::settle`]: super::Replies::settle
    Settle { node: String, settlement: ReplyOutcome, done: oneshot::Sender<Result<(), Refusal>> },
    /// The publisher has its first connection here, or none any more ([`Replies::has`]).
    ///
    /// [`Replies::has`]: super::Replies::has
    Publisher(Arc<str>),
}

/// An errand, and its part of the memory for all: to be kept until it is done.
pub type QueuedTask = (RemoteTask, OwnedSemaphorePermit);

/// What a publisher said about a reply.
#[derive(Serialize, Deserialize)]
pub struct ReplyOutcome {
    pub publisher: Arc<str>,
    /// The reply.
    pub name: Arc<str>,
    /// JSON; without one it has the reply and no more.
    pub answer: Option<Box<str>>,
}

pub struct RemoteQueue {
    /// The name of this node.
    pub node: String,
    sender: mpsc::UnboundedSender<QueuedTask>,
    byte_budget: Arc<Semaphore>,
}

impl RemoteQueue {
    pub fn new(node: &str) -> (Self, mpsc::UnboundedReceiver<QueuedTask>) {
        // Bounded by the permits for `room`.
        let (sender, errands) = mpsc::unbounded_channel();
        (Self { node: node.to_owned(), sender, byte_budget: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)) }, errands)
    }

    /// `false` if nobody will do it: too much waits, or the gateway stops.
    pub fn add(&self, errand: RemoteTask) -> bool {
        let size = u32::try_from(errand.bytes() + TASK_OVERHEAD_BYTES).unwrap_or(u32::MAX);
        let held = self.byte_budget.clone().try_acquire_many_owned(size);
        held.is_ok_and(|held| self.sender.send((errand, held)).is_ok())
    }

    /// The other node that keeps a reply of this name.
    pub fn owner_node(&self, name: &str) -> Option<String> {
        let node = name.splitn(3, '-').nth(2)?;
        let is_node = node.len() == self.node.len() && node.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (is_node && node != self.node).then(|| node.to_owned())
    }
}

impl RemoteTask {
    /// Of its data.
    fn bytes(&self) -> usize {
        match self {
            Self::Forward { json, .. } => json.len(),
            Self::Settle { settlement, .. } => settlement.answer.as_ref().map_or(0, |answer| answer.len()),
            Self::Publisher(_) => 0,
        }
    }
}
