//! Publications on their way to Redis: sent in the order in which they came, many at once, bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::ScriptInvocation;
use tokio::sync::{mpsc, oneshot};
use tokio::task::coop::unconstrained;

use super::connection::{Connection, away};
use super::server::RedisKind;
use super::wire::reason_of;
use crate::broker::Counters;
use crate::broker::engine::Stored;
use crate::engine::log::{ended, too_large};
use crate::protocol::{ErrorCode, Position, Refusal};

/// Publications that Redis has not answered yet. In a Cluster the library lets no more than 50 onto a connection, and those
/// that wait for room there may change places.
const MAX_IN_FLIGHT: usize = 1024;
const MAX_IN_FLIGHT_IN_CLUSTER: usize = 32;

/// Bytes that may wait or fly; publishers are refused beyond it.
const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;

/// What a publication takes besides its data.
const OP_OVERHEAD_BYTES: usize = 1024;

pub struct Queue {
    sender: mpsc::UnboundedSender<Op>,
    bytes: Arc<AtomicUsize>,
}

struct Op {
    session: Arc<Connection>,
    append: ScriptInvocation<'static>,
    answer: oneshot::Sender<Result<Stored, Refusal>>,
    _held: HeldBytes,
}

/// Bytes that are counted until this is dropped.
struct HeldBytes(Arc<AtomicUsize>, usize);

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Queue {
    /// Needs a tokio runtime. It ends with the queue.
    pub fn start(counters: Arc<Counters>, kind: &RedisKind) -> Self {
        // Bounded by the bytes that `push` counts.
        let (sender, ops) = mpsc::unbounded_channel();
        let max_flying = if *kind == RedisKind::Cluster { MAX_IN_FLIGHT_IN_CLUSTER } else { MAX_IN_FLIGHT };
        // A task that used up its turn is told to wait where it need not, and comes back behind those that came later.
        tokio::spawn(unconstrained(pump(ops, counters, max_flying)));
        Self { sender, bytes: Arc::default() }
    }

    /// `bytes` are those of the publication.
    pub fn push(
        &self,
        session: Arc<Connection>,
        append: ScriptInvocation<'static>,
        bytes: usize,
    ) -> Result<oneshot::Receiver<Result<Stored, Refusal>>, Refusal> {
        let held = HeldBytes(self.bytes.clone(), bytes + OP_OVERHEAD_BYTES);
        if self.bytes.fetch_add(held.1, Ordering::Relaxed) > MAX_QUEUED_BYTES {
            return Err(Refusal::new(ErrorCode::EngineUnavailable, "too much waits for the engine; try again later"));
        }
        let (answer, settled) = oneshot::channel();
        self.sender.send(Op { session, append, answer, _held: held }).map_err(|_| away())?;
        Ok(settled)
    }
}

async fn pump(mut ops: mpsc::UnboundedReceiver<Op>, counters: Arc<Counters>, max_flying: usize) {
    // What is new is begun in the order in which it came, and a connection sends in the order of beginning, as long as
    // nothing waits to be sent.
    let mut flying = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            op = ops.recv(), if flying.len() < max_flying => match op {
                Some(op) => flying.push(op.run(&counters)),
                None => return,
            },
            Some(()) = flying.next() => {}
        }
    }
}

impl Op {
    async fn run(self, counters: &Counters) {
        let settled = if self.session.is_lost() {
            Err(away())
        } else {
            match self.session.invoke::<Vec<String>>(&self.append).await {
                Ok(answer) => settled(&answer),
                Err(refusal) => Err(refusal),
            }
        };
        if settled.is_ok() {
            counters.publications.increment(1);
        }
        // Whoever asked may be gone.
        let _ = self.answer.send(settled);
    }
}

/// What `append.lua` gave. Members hear of it when it comes back over the pub/sub.
fn settled(answer: &[String]) -> Result<Stored, Refusal> {
    let words: Vec<_> = answer.iter().map(String::as_str).collect();
    match words[..] {
        ["ok", epoch, offset] => {
            let offset = offset.parse().map_err(|_| away())?;
            Ok(Stored { position: Position { epoch: epoch.into(), offset }, backpressure: None })
        }
        ["ended" | "limit", reason] => Err(reason_of(reason).map_or_else(away, ended)),
        ["large", limit] => Err(limit.parse().map_or_else(|_| away(), too_large)),
        _ => Err(away()),
    }
}
