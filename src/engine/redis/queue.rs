//! The queue of publications to Redis: sent in order, pipelined, bounded in number and bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::ScriptInvocation;
use tokio::sync::{mpsc, oneshot};
use tokio::task::coop::unconstrained;

use super::connection::{Connection, unavailable};
use super::core::Core;
use super::server::RedisKind;
use super::signer::{Signer, Unsigned};
use super::wire::reason_of;
use crate::broker::Counters;
use crate::broker::engine::Stored;
use crate::engine::log::{ended, too_large};
use crate::ops::Lifecycle;
use crate::protocol::{ChannelName, ErrorCode, Position, Refusal};

/// Publications without a response yet. In a Cluster the library sends at most 50 on a connection, and may reorder those
/// that wait beyond it.
const MAX_IN_FLIGHT: usize = 1024;
const MAX_IN_FLIGHT_IN_CLUSTER: usize = 32;

/// Bytes that are queued or in flight; publishers are refused beyond it.
const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;

/// Memory of a publication besides its data.
const OP_OVERHEAD_BYTES: usize = 1024;

pub struct Queue {
    sender: mpsc::UnboundedSender<Op>,
    bytes: Arc<AtomicUsize>,
}

struct Op {
    connection: Arc<Connection>,
    append: ScriptInvocation<'static>,
    publication: Unsigned,
    answer: oneshot::Sender<Result<Stored, Refusal>>,
    _bytes: QueuedBytes,
}

/// Bytes that are counted until this is dropped.
struct QueuedBytes(Arc<AtomicUsize>, usize);

impl Drop for QueuedBytes {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Queue {
    /// Starts the task that sends, which ends with the queue. `known` returns this node's last position of a channel.
    /// Needs a tokio runtime.
    pub fn start(
        core: Arc<Core>,
        counters: Arc<Counters>,
        kind: &RedisKind,
        lifecycle: &Arc<Lifecycle>,
        known: impl Fn(&ChannelName) -> Option<Position> + Send + 'static,
    ) -> Self {
        // Bounded by the bytes that `push` counts.
        let (sender, ops) = mpsc::unbounded_channel();
        let max_in_flight = if *kind == RedisKind::Cluster { MAX_IN_FLIGHT_IN_CLUSTER } else { MAX_IN_FLIGHT };
        // Unconstrained: a task that used up its budget would be polled again after operations that came later.
        let run = unconstrained(run_queue(core, ops, counters, max_in_flight, known));
        tokio::spawn(lifecycle.clone().supervise("redis queue", run));
        Self { sender, bytes: Arc::default() }
    }

    /// `bytes` is the size of the publication.
    pub fn push(
        &self,
        connection: Arc<Connection>,
        append: ScriptInvocation<'static>,
        publication: Unsigned,
        bytes: usize,
    ) -> Result<oneshot::Receiver<Result<Stored, Refusal>>, Refusal> {
        let queued = QueuedBytes(self.bytes.clone(), bytes + OP_OVERHEAD_BYTES);
        if self.bytes.fetch_add(queued.1, Ordering::Relaxed) > MAX_QUEUED_BYTES {
            return Err(Refusal::new(ErrorCode::EngineUnavailable, "engine queue full, retry later"));
        }
        let (answer, stored) = oneshot::channel();
        self.sender.send(Op { connection, append, publication, answer, _bytes: queued }).map_err(|_| unavailable())?;
        Ok(stored)
    }
}

async fn run_queue(
    core: Arc<Core>,
    mut ops: mpsc::UnboundedReceiver<Op>,
    counters: Arc<Counters>,
    max_in_flight: usize,
    known: impl Fn(&ChannelName) -> Option<Position>,
) {
    let mut signer = Signer::new(core.node.clone());
    // Operations start in order, and a connection sends in the order of their start as long as its pipeline is not full.
    let mut in_flight = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            op = ops.recv(), if in_flight.len() < max_in_flight => match op {
                Some(mut op) => match signer.sign(&core.guard, &op.publication, &mut op.append, &known) {
                    Ok(()) => in_flight.push(op.run(&counters)),
                    // The publisher may be gone.
                    Err(refusal) => drop(op.answer.send(Err(refusal))),
                },
                None => return,
            },
            Some((channel, position)) = in_flight.next() => signer.settle(&channel, position),
        }
    }
}

impl Op {
    /// Returns the channel, and the position that Redis assigned.
    async fn run(self, counters: &Counters) -> (ChannelName, Option<Position>) {
        let stored = if self.connection.is_lost() {
            Err(unavailable())
        } else {
            match self.connection.invoke::<Vec<String>>(&self.append).await {
                Ok(answer) => stored(&answer),
                Err(refusal) => Err(refusal),
            }
        };
        if stored.is_ok() {
            counters.publications.increment(1);
        }
        let position = stored.as_ref().ok().map(|stored| stored.position.clone());
        // The publisher may be gone.
        let _ = self.answer.send(stored);
        (self.publication.channel, position)
    }
}

/// The result of `append.lua`. Subscribers receive the publication from the pub/sub.
fn stored(answer: &[String]) -> Result<Stored, Refusal> {
    let fields: Vec<_> = answer.iter().map(String::as_str).collect();
    match fields[..] {
        ["ok", epoch, offset] => {
            let offset = offset.parse().map_err(|_| unavailable())?;
            Ok(Stored { position: Position { epoch: epoch.into(), offset }, backpressure: None })
        }
        ["ended" | "limit", reason] => Err(reason_of(reason).map_or_else(unavailable, ended)),
        ["large", limit] => Err(limit.parse().map_or_else(|_| unavailable(), too_large)),
        _ => Err(unavailable()),
    }
}
