//! The queue of operations that the committer writes, bounded and in order of their offsets.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::facts::Fact;
use crate::broker::Now;
use crate::broker::engine::Stored;
use crate::engine::channels::SharedLog;
use crate::engine::log::{LogState, Usage};
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Publication, Refusal};

/// Bytes of queued publications; publishers are refused beyond it.
const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;
/// Memory of an operation besides its frame.
const OP_OVERHEAD_BYTES: usize = 512;

/// Sends the result of an operation once it is written.
pub type ResultSender<T> = oneshot::Sender<Result<T, Refusal>>;

/// An operation that is written to the store and then done in memory.
pub enum Op {
    /// Stores and commits an appended publication.
    Publish {
        channel: ChannelName,
        log: SharedLog,
        publication: Arc<Publication>,
        is_kept: bool,
        used: Usage,
        now: Now,
        answer: ResultSender<Stored>,
    },
    /// Stores the declared limits of a channel.
    Save { channel: ChannelName, log: SharedLog, answer: ResultSender<()> },
    /// Ends a channel that reached a limit. Never refused.
    End { channel: ChannelName, log: SharedLog, reason: CloseReason },
    /// Removes a channel.
    Remove { channel: ChannelName, log: SharedLog, before: LogState, answer: ResultSender<()> },
    /// Writes a fact of the ledger.
    Fact { name: String, fact: Fact, answer: ResultSender<()> },
    /// Deletes facts of the ledger.
    Forget { names: Vec<String> },
    /// Reports when all operations before it are done.
    Barrier { answer: ResultSender<()> },
}

impl Op {
    fn bytes(&self) -> usize {
        match self {
            Self::Publish { publication, .. } => {
                OP_OVERHEAD_BYTES + publication.frame(crate::protocol::Form::Native).len()
            }
            _ => OP_OVERHEAD_BYTES,
        }
    }
}

#[derive(Default)]
pub struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    ops: Vec<Op>,
    bytes: usize,
    /// Rows to be deleted, by channel id and offsets.
    garbage: Vec<(u64, Range<u64>)>,
    /// Garbage is to be deleted even without an operation.
    sweep: bool,
    is_down: bool,
    is_closed: bool,
}

/// The operations of one transaction.
#[derive(Default)]
pub struct Batch {
    pub ops: Vec<Op>,
    pub garbage: Vec<(u64, Range<u64>)>,
}

impl Queue {
    /// Refuses while the store cannot be written, or the queue is full.
    pub fn check(&self) -> Result<(), Refusal> {
        self.state.lock().check()
    }

    pub fn push(&self, op: Op) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        if !matches!(op, Op::End { .. }) {
            state.check()?;
        }
        state.bytes += op.bytes();
        state.ops.push(op);
        self.changed.notify_one();
        Ok(())
    }

    /// Queues rows to be deleted with the next transaction.
    pub fn discard(&self, garbage: Option<(u64, Range<u64>)>) {
        if let Some(garbage) = garbage {
            self.state.lock().garbage.push(garbage);
        }
    }

    /// Starts a transaction for discarded rows, even without an operation.
    pub fn sweep(&self) {
        let mut state = self.state.lock();
        if !state.garbage.is_empty() {
            state.sweep = true;
            self.changed.notify_one();
        }
    }

    /// Waits for operations and takes all of them; `None` once the queue is closed and empty.
    pub fn take(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        while state.ops.is_empty() && !state.sweep {
            if state.is_closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
        (state.bytes, state.sweep) = (0, false);
        Some(Batch { ops: std::mem::take(&mut state.ops), garbage: std::mem::take(&mut state.garbage) })
    }

    /// Refuses all further operations. Returns the queued ones, except ends of channels, which stay queued.
    pub fn go_down(&self) -> Vec<Op> {
        let mut state = self.state.lock();
        state.is_down = true;
        let (ends, refused) = std::mem::take(&mut state.ops).into_iter().partition(|op| matches!(op, Op::End { .. }));
        (state.ops, state.bytes) = (ends, 0);
        refused
    }

    pub fn come_up(&self) {
        self.state.lock().is_down = false;
    }

    pub fn is_down(&self) -> bool {
        self.state.lock().is_down
    }

    /// Refuses all further operations for good.
    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Refuses everything, also what is queued: no thread takes it any more.
    pub fn abandon(&self) {
        let mut state = self.state.lock();
        (state.is_down, state.is_closed) = (true, true);
        // The dropped senders refuse.
        state.ops.clear();
    }

    /// Waits for `duration`, or until the queue is closed; then returns `false`.
    pub fn pause(&self, duration: std::time::Duration) -> bool {
        let deadline = std::time::Instant::now() + duration;
        let mut state = self.state.lock();
        while !state.is_closed && !self.changed.wait_until(&mut state, deadline).timed_out() {}
        !state.is_closed
    }
}

impl QueueState {
    fn check(&self) -> Result<(), Refusal> {
        if self.is_down || self.is_closed {
            return Err(Refusal::new(ErrorCode::EngineUnavailable, "store cannot be written, retry later"));
        }
        if self.bytes > MAX_QUEUED_BYTES {
            return Err(Refusal::new(ErrorCode::EngineUnavailable, "engine queue full, retry later"));
        }
        Ok(())
    }
}
