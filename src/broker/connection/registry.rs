//! Every live connection of this node: for the sweep, for reloads and for the drain.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};
use parking_lot::Mutex;
use slab::Slab;

use crate::broker::{Connection, Phase};
use crate::protocol::CloseReason;

/// Locks over the connections, so that connecting and sweeping rarely meet.
const REGISTRY_SHARDS: usize = 16;

pub struct Registry {
    shards: [Mutex<Slab<Arc<Connection>>>; REGISTRY_SHARDS],
    next_id: AtomicU64,
    remote_peers: AtomicUsize,
    open: Gauge,
    fallbacks: [Gauge; Fallback::ALL.len()],
    opened: Counter,
    closes: Closes,
    slow_consumers: Counter,
}

/// Transports beside the WebSocket.
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

/// A connection's place; it is given up when this is dropped.
pub struct Registered {
    registry: Arc<Registry>,
    connection: Arc<Connection>,
    at: usize,
    kind: Kind,
}

/// What stands behind a connection.
#[derive(Clone, Copy)]
enum Kind {
    Socket,
    Fallback(Fallback),
    /// A peer of a room whose client is connected to another node, and is counted there.
    RemotePeer,
}

impl Registry {
    /// Registers its metrics with the current recorder.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            shards: Default::default(),
            next_id: AtomicU64::new(1),
            remote_peers: AtomicUsize::new(0),
            open: gauge!("lastmile_connections"),
            fallbacks: Fallback::ALL
                .map(|fallback| gauge!("lastmile_fallback_connections", "transport" => fallback.name())),
            opened: counter!("lastmile_connections_total"),
            closes: Closes::new(),
            slow_consumers: counter!("lastmile_slow_consumers_total"),
        })
    }

    /// A number that no other connection of this process has.
    pub fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub fn register(self: &Arc<Self>, connection: Arc<Connection>) -> Registered {
        self.register_as(connection, Kind::Socket)
    }

    pub fn register_remote_peer(self: &Arc<Self>, connection: Arc<Connection>) -> Registered {
        self.register_as(connection, Kind::RemotePeer)
    }

    pub fn register_fallback(self: &Arc<Self>, connection: Arc<Connection>, fallback: Fallback) -> Registered {
        self.fallbacks[fallback as usize].increment(1);
        self.register_as(connection, Kind::Fallback(fallback))
    }

    fn register_as(self: &Arc<Self>, connection: Arc<Connection>, kind: Kind) -> Registered {
        let at = self.shard(connection.id).lock().insert(connection.clone());
        if matches!(kind, Kind::RemotePeer) {
            self.remote_peers.fetch_add(1, Ordering::Relaxed);
        } else {
            self.open.increment(1);
            self.opened.increment(1);
        }
        Registered { registry: self.clone(), connection, at, kind }
    }

    /// Connections of clients to this node, without guests.
    pub fn clients(&self) -> usize {
        self.len().saturating_sub(self.remote_peers.load(Ordering::Relaxed))
    }

    /// All of them, guests too.
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
                // A full outbox is counted where it overflows, a stalled one here.
                if connection.sweep(now_unix) == Some(CloseReason::SlowConsumer) {
                    self.slow_consumers.increment(1);
                }
            }
        }
    }

    /// Wakes every connection's task, so that it looks at the rules again.
    pub fn wake_all(&self) {
        for shard in &self.shards {
            shard.lock().iter().for_each(|(_, connection)| connection.wake());
        }
    }

    /// Closes every connection, spread evenly over `window`. Returns how many there were.
    pub async fn close_all(&self, reason: CloseReason, window: Duration) -> usize {
        let connections: Vec<_> = self
            .shards
            .iter()
            .flat_map(|shard| shard.lock().iter().map(|(_, c)| c.clone()).collect::<Vec<_>>())
            .collect();
        let (begun, count) = (tokio::time::Instant::now(), connections.len());
        // Each is let go after its close: a socket that is held here would stay open until the last one's turn.
        for (index, connection) in connections.into_iter().enumerate() {
            // Many may be due at the same tick of the timer, and then this does not wait.
            tokio::time::sleep_until(begun + window.mul_f64(index as f64 / count as f64)).await;
            connection.close(reason);
        }
        count
    }

    fn shard(&self, id: u64) -> &Mutex<Slab<Arc<Connection>>> {
        &self.shards[id as usize % REGISTRY_SHARDS]
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.shard(self.connection.id).lock().remove(self.at);
        match self.kind {
            Kind::RemotePeer => {
                self.registry.remote_peers.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            Kind::Fallback(fallback) => self.registry.fallbacks[fallback as usize].decrement(1),
            Kind::Socket => {}
        }
        self.registry.open.decrement(1);
        if let Phase::Closing(reason) | Phase::Closed(reason) = self.connection.phase() {
            self.registry.closes.count(reason);
        }
    }
}

/// `lastmile_closes_total{reason}`.
struct Closes(HashMap<CloseReason, Counter>);

impl Closes {
    fn new() -> Self {
        let name = |reason: CloseReason| if reason == CloseReason::Normal { "normal" } else { reason.name() };
        let counter = |reason| (reason, counter!("lastmile_closes_total", "reason" => name(reason)));
        Self(CloseReason::ALL.into_iter().map(counter).collect())
    }

    fn count(&self, reason: CloseReason) {
        if let Some(counter) = self.0.get(&reason) {
            counter.increment(1);
        }
    }
}
