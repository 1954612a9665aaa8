//! What waits to be written: bounded, in the order in which logs gave it away.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::broker::Now;
use crate::broker::engine::Stored;
use crate::engine::channels::SharedLog;
use crate::engine::log::{LogState, Usage};
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Publication, Refusal};

/// Bytes of publications that may wait; publishers are refused beyond it.
const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;
/// What a thing that waits takes besides its frame.
const OP_OVERHEAD_BYTES: usize = 512;

/// The answer to whoever waits; it says more than that only for publications.
pub type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// What is to be written and then done, in its order.
pub enum Op {
    /// A log gave a publication away.
    Publish {
        channel: ChannelName,
        log: SharedLog,
        publication: Arc<Publication>,
        is_kept: bool,
        used: Usage,
        now: Now,
        answer: Answer<Stored>,
    },
    /// A channel is as its log says now.
    Save { channel: ChannelName, log: SharedLog, answer: Answer<()> },
    /// A limit ended a channel. This alone is never refused.
    End { channel: ChannelName, log: SharedLog, reason: CloseReason },
    /// A channel goes.
    Remove { channel: ChannelName, log: SharedLog, before: LogState, answer: Answer<()> },
    /// Whoever waits for all before it.
    Barrier { answer: Answer<()> },
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
    /// Rows that are not kept any more.
    garbage: Vec<(u64, Range<u64>)>,
    /// Garbage alone is to be written as well.
    sweep: bool,
    is_down: bool,
    is_closed: bool,
}

/// What is written in one transaction.
#[derive(Default)]
pub struct Batch {
    pub ops: Vec<Op>,
    pub garbage: Vec<(u64, Range<u64>)>,
}

impl Queue {
    /// Refuses while nothing can be written, or too much waits.
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

    /// To be deleted with whatever is written next.
    pub fn discard(&self, garbage: Option<(u64, Range<u64>)>) {
        if let Some(garbage) = garbage {
            self.state.lock().garbage.push(garbage);
        }
    }

    /// Has what was discarded deleted, also if nothing else is written.
    pub fn sweep(&self) {
        let mut state = self.state.lock();
        if !state.garbage.is_empty() {
            state.sweep = true;
            self.changed.notify_one();
        }
    }

    /// Everything that waits, as soon as something does; `None` once it is closed and empty.
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

    /// From now on everything is refused. Gives what waited, but for the ends of channels, which stay.
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

    /// Nothing more comes.
    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Waits, at most for so long; `false` once it is closed.
    pub fn pause(&self, at_most: std::time::Duration) -> bool {
        let deadline = std::time::Instant::now() + at_most;
        let mut state = self.state.lock();
        while !state.is_closed && !self.changed.wait_until(&mut state, deadline).timed_out() {}
        !state.is_closed
    }
}

impl QueueState {
    fn check(&self) -> Result<(), Refusal> {
        if self.is_down || self.is_closed {
            return Err(Refusal::new(ErrorCode::EngineUnavailable, "nothing can be written now; try again later"));
        }
        if self.bytes > MAX_QUEUED_BYTES {
            return Err(Refusal::new(ErrorCode::EngineUnavailable, "too much waits to be written; try again later"));
        }
        Ok(())
    }
}
