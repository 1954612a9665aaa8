//! All live connections of this node, for the sweep, policy changes and the drain.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use metrics::{Counter, Gauge, counter, gauge};
use parking_lot::Mutex;
use slab::Slab;

use super::{Connection, Phase};
use crate::broker::Counters;
use crate::ops::log::folded;
use crate::protocol::CloseReason;

/// Locks over the connections, so that new connections rarely wait for the sweep.
const REGISTRY_SHARDS: usize = 16;

pub struct Registry {
    shards: [Mutex<Slab<Arc<Connection>>>; REGISTRY_SHARDS],
    next_id: AtomicU64,
    remote_peers: AtomicUsize,
    open: Gauge,
    fallbacks: [Gauge; Fallback::ALL.len()],
    opened: Counter,
    closes: Closes,
    counters: Arc<Counters>,
    is_draining: AtomicBool,
}

/// Transports other than the WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    Events,
    Lines,
    Poll,
}

impl Fallback {
    const ALL: [Self; 3] = [Self::Events, Self::Lines, Self::Poll];

    fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Lines => "lines",
            Self::Poll => "poll",
        }
    }
}

/// An entry of the registry; removed when this is dropped.
pub struct Registered {
    registry: Arc<Registry>,
    connection: Arc<Connection>,
    at: usize,
    kind: ConnectionKind,
}

/// The client side of a connection.
#[derive(Clone, Copy)]
enum ConnectionKind {
    Socket,
    Fallback(Fallback),
    /// A remote peer: the node of its client counts it.
    RemotePeer,
}

impl Registry {
    /// Registers its metrics with the current recorder.
    pub fn new(counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            shards: Default::default(),
            next_id: AtomicU64::new(1),
            remote_peers: AtomicUsize::new(0),
            open: gauge!("lastmile_connections"),
            fallbacks: Fallback::ALL
                .map(|fallback| gauge!("lastmile_fallback_connections", "transport" => fallback.name())),
            opened: counter!("lastmile_connections_total"),
            closes: Closes::new(),
            counters,
            is_draining: AtomicBool::new(false),
        })
    }

    /// A connection id, unique in this process.
    pub fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a WebSocket. Closes it at once if the drain has begun.
    pub fn register(self: &Arc<Self>, connection: Arc<Connection>) -> Registered {
        self.register_as(connection, ConnectionKind::Socket)
    }

    /// Adds a remote peer; the same.
    pub fn register_remote_peer(self: &Arc<Self>, connection: Arc<Connection>) -> Registered {
        self.register_as(connection, ConnectionKind::RemotePeer)
    }

    /// Adds an event stream or poll; the same.
    pub fn register_fallback(self: &Arc<Self>, connection: Arc<Connection>, fallback: Fallback) -> Registered {
        self.fallbacks[fallback as usize].increment(1);
        self.register_as(connection, ConnectionKind::Fallback(fallback))
    }

    fn register_as(self: &Arc<Self>, connection: Arc<Connection>, kind: ConnectionKind) -> Registered {
        let at = self.shard(connection.id).lock().insert(connection.clone());
        // Read after the insertion: a drain that began before it did not see this connection.
        if self.is_draining.load(Ordering::SeqCst) {
            connection.close(CloseReason::Draining);
        }
        if matches!(kind, ConnectionKind::RemotePeer) {
            self.remote_peers.fetch_add(1, Ordering::Relaxed);
        } else {
            self.open.increment(1);
            self.opened.increment(1);
        }
        Registered { registry: self.clone(), connection, at, kind }
    }

    /// Connections of clients to this node, without remote peers.
    pub fn clients(&self) -> usize {
        self.len().saturating_sub(self.remote_peers.load(Ordering::Relaxed))
    }

    /// All connections, with remote peers.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// To be called once a second: deadlines, pings, silence.
    pub fn sweep(&self, now_unix: u64) {
        for shard in &self.shards {
            for (_, connection) in shard.lock().iter() {
                // Stalled outboxes are counted here, full ones by the fan-out.
                if connection.sweep(now_unix) == Some(CloseReason::SlowConsumer) {
                    self.counters.slow_consumers.increment(1);
                }
            }
        }
    }

    /// Wakes every connection's task, which then checks its authorization again.
    pub fn wake_all(&self) {
        for shard in &self.shards {
            shard.lock().iter().for_each(|(_, connection)| connection.wake());
        }
    }

    /// From now on every new connection is closed at once. Returns those that are open, to be closed by the caller.
    pub fn begin_drain(&self) -> Vec<Arc<Connection>> {
        self.is_draining.store(true, Ordering::SeqCst);
        let open = |shard: &Mutex<Slab<_>>| shard.lock().iter().map(|(_, open)| Arc::clone(open)).collect::<Vec<_>>();
        self.shards.iter().flat_map(open).collect()
    }

    fn shard(&self, id: u64) -> &Mutex<Slab<Arc<Connection>>> {
        &self.shards[id as usize % REGISTRY_SHARDS]
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.shard(self.connection.id).lock().remove(self.at);
        match self.kind {
            ConnectionKind::RemotePeer => {
                self.registry.remote_peers.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            ConnectionKind::Fallback(fallback) => self.registry.fallbacks[fallback as usize].decrement(1),
            ConnectionKind::Socket => {}
        }
        self.registry.open.decrement(1);
        if let Phase::Closing(reason) | Phase::Closed(reason) = self.connection.phase() {
            self.registry.closes.count(reason);
            log_close(&self.connection, reason);
        }
    }
}

/// The peer ends a normal close, the operator a drain; each other reason is worth a look.
fn log_close(connection: &Connection, reason: CloseReason) {
    let (id, subject) = (format_args!("c-{:x}", connection.id), connection.subject());
    let (subject, name, code) = (subject.as_deref(), reason_label(reason), reason.code());
    // Strangers are counted together.
    let cause = format_args!("{name} {}", subject.unwrap_or_default());
    if matches!(reason, CloseReason::Normal | CloseReason::Draining) {
        folded!(DEBUG, cause, "connection closed", connection = %id, subject, reason = name, code);
    } else {
        folded!(INFO, cause, "connection closed", connection = %id, subject, reason = name, code);
    }
}

/// A normal close has no name on the wire.
fn reason_label(reason: CloseReason) -> &'static str {
    if reason == CloseReason::Normal { "normal" } else { reason.name() }
}

/// `lastmile_closes_total{reason}`.
struct Closes(HashMap<CloseReason, Counter>);

impl Closes {
    fn new() -> Self {
        let counter = |reason| (reason, counter!("lastmile_closes_total", "reason" => reason_label(reason)));
        Self(CloseReason::ALL.into_iter().map(counter).collect())
    }

    fn count(&self, reason: CloseReason) {
        if let Some(counter) = self.0.get(&reason) {
            counter.increment(1);
        }
    }
}
