//! Tasks on other nodes for replies, in a bounded queue.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::protocol::Refusal;

/// Bytes of unfinished tasks. Beyond that a reply waits, and an outcome is refused.
const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;

/// Memory of a task besides its data.
const TASK_OVERHEAD_BYTES: usize = 256;

pub enum RemoteTask {
    /// Sends a reply to a node that has the publisher ([`Replies::deliver`]); [`Replies::requeue`] if that fails.
    ///
    /// [`Replies::deliver`]: super::Replies::deliver
    /// [`Replies::requeue`]: super::Replies::requeue
    Forward { publisher: Arc<str>, name: Arc<str>, json: Arc<str> },
    /// Sends an outcome to the node that keeps the reply ([`Replies::settle`]).
    ///
    /// [`Replies::settle`]: super::Replies::settle
    Settle { node: String, outcome: ReplyOutcome, done: oneshot::Sender<Result<(), Refusal>> },
    /// Updates the registration of a publisher, which got its first or lost its last connection here ([`Replies::has`]).
    ///
    /// [`Replies::has`]: super::Replies::has
    Publisher(Arc<str>),
}

/// A task with its part of the byte budget, which has to be kept until the task is complete.
pub type QueuedTask = (RemoteTask, OwnedSemaphorePermit);

/// The outcome of a reply, from its publisher.
#[derive(Serialize, Deserialize)]
pub struct ReplyOutcome {
    pub publisher: Arc<str>,
    /// The name of the reply.
    pub name: Arc<str>,
    /// The answer as JSON; `None` confirms the reply only.
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
        // Bounded by the permits of `byte_budget`.
        let (sender, tasks) = mpsc::unbounded_channel();
        (Self { node: node.to_owned(), sender, byte_budget: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)) }, tasks)
    }

    /// `false` if the task was dropped: the queue is full, or the gateway stops.
    pub fn add(&self, task: RemoteTask) -> bool {
        let size = u32::try_from(task.bytes() + TASK_OVERHEAD_BYTES).unwrap_or(u32::MAX);
        let permit = self.byte_budget.clone().try_acquire_many_owned(size);
        permit.is_ok_and(|permit| self.sender.send((task, permit)).is_ok())
    }

    /// The node that keeps the reply of this name; `None` for this node.
    pub fn owner_node(&self, name: &str) -> Option<String> {
        let node = name.splitn(3, '-').nth(2)?;
        let is_node = node.len() == self.node.len() && node.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (is_node && node != self.node).then(|| node.to_owned())
    }
}

impl RemoteTask {
    /// Bytes of its data.
    fn bytes(&self) -> usize {
        match self {
            Self::Forward { json, .. } => json.len(),
            Self::Settle { outcome, .. } => outcome.answer.as_ref().map_or(0, |answer| answer.len()),
            Self::Publisher(_) => 0,
        }
    }
}
