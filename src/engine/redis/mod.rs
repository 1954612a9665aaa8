//! The engine for many nodes: Redis assigns offsets, keeps the backlog and carries publications between nodes.
//!
//! One script appends a publication: it assigns the offset, stores the publication and publishes it to all nodes. Its
//! subscribers receive it from the pub/sub, on this node as on every other one, through the channel's mirror.

mod channel;
mod cleanup;
mod cluster_key;
mod connection;
mod core;
mod guard;
mod keys;
mod message_router;
mod mirror;
mod node_bus;
mod probe;
mod queue;
mod replay_windows;
mod server;
mod shared_store;
mod signer;
mod subscriber_quota;
mod wire;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use tokio::runtime::Handle;
use tokio::sync::{RwLock, Semaphore};
use tokio::task::JoinHandle;

use self::connection::{Connection, ConnectionKeeper, PushStream, name_of, unavailable};
use self::core::Core;
use self::guard::Guard;
use self::keys::{Keys, PROBES, SCRIPTS};
use self::message_router::MessageRouter;
use self::mirror::{Mirror, deliver};
use self::probe::HealthProbe;
use self::queue::Queue;
use self::server::Server;
use self::signer::{Unsigned, is_authentic_now};
use self::wire::Message;
use super::channels::{Channels, MemoryLimits, SharedLog, Wait, new_epoch};
use super::lives::Lives;
use super::log::LogState;
use super::millis::millis;
use crate::broker::engine::{Appended, ChannelState, Created, EngineFuture, Joined, Start, SubscriberSlot};
use crate::broker::{
    ChannelLimits, ChannelRules, Counters, Engine, Holder, Hub, JoinRequest, Membership, NodeBus, Now, SharedStore,
};
use crate::ops::Lifecycle;
use crate::ops::log::folded;
use crate::protocol::{ChannelName, ErrorCode, Payload, Position, Refusal};

pub use self::cluster_key::{ClusterSecret, Unauthenticated};
pub use self::server::{RedisConfig, RedisError, RedisKind};
pub use self::shared_store::nodes;

/// How long a new subscriber waits for Redis.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(2);

const MAX_CONCURRENT_RESYNCS: usize = 64;

/// The key that a probe writes expires after this.
const PROBE_TTL: Duration = Duration::from_secs(10);

/// Without a connection and a probe for this long, subscribers are sent `degraded`. Redis may restart in less.
const DEGRADED_AFTER: Duration = Duration::from_secs(2);

/// Reconnect a Cluster connection that returned nothing for this long. The client library normally reconnects by itself,
/// but was once seen to hang.
const CLUSTER_RECONNECT_AFTER: Duration = Duration::from_secs(10);

pub struct Redis {
    node: Arc<Node>,
    queue: Queue,
    keeper: JoinHandle<()>,
}

/// This node: its mirrors and its view of the connection to Redis.
struct Node {
    core: Arc<Core>,
    mirrors: Mutex<HashMap<ChannelName, Arc<Mirror>>>,
    /// The pub/sub names of this node's probes. Without a Cluster only the first one is used.
    probes: [String; PROBES],
    health: HealthProbe,
    /// Held by the task that cleans up, and by the one that sends states. A panic frees them.
    cleanup_turn: Arc<tokio::sync::Mutex<()>>,
    state_turn: Arc<tokio::sync::Mutex<()>>,
    is_cut_off: AtomicBool,
}

/// A mirror; of a waiting name with the subscription that keeps it.
type HeldMirror = (Arc<Mirror>, Option<Wait>);

impl Redis {
    /// Starts to connect and returns at once. Needs a tokio runtime. The error names what is wrong with an address.
    pub fn start(
        config: RedisConfig,
        limits: MemoryLimits,
        rules: Arc<ArcSwap<ChannelRules>>,
        hub: Hub,
        counters: Arc<Counters>,
        lifecycle: &Arc<Lifecycle>,
    ) -> Result<Self, RedisError> {
        let server = Server::new(&config).map_err(|error| RedisError(error.to_string()))?;
        let name = new_epoch().map_err(|refusal| RedisError(refusal.detail.into_owned()))?.to_string();
        let keys = Keys::new(&config.prefix);
        let probes = keys.probes(&name);
        let core = Arc::new(Core {
            channels: Channels::new(limits, Lives::new(), rules, hub, counters.clone()),
            keys,
            connection_keeper: ConnectionKeeper::default(),
            guard: Guard::new(&config.cluster_key, config.unauthenticated),
            messages: MessageRouter::default(),
            resync_permits: Semaphore::new(MAX_CONCURRENT_RESYNCS),
            subscribe_lock: RwLock::default(),
            node: name,
            idle: limits.idle,
            runtime: Handle::current(),
        });
        let node = Arc::new(Node {
            core,
            mirrors: Mutex::default(),
            probes,
            health: HealthProbe::new(),
            cleanup_turn: Arc::default(),
            state_turn: Arc::default(),
            is_cut_off: AtomicBool::new(false),
        });
        let (kept, mirrored) = (node.clone(), node.clone());
        let known = move |channel: &_| mirrored.mirrors.lock().get(channel)?.known_position();
        let queue = Queue::start(node.core.clone(), counters, &config.kind, lifecycle, known);
        let keeper = tokio::spawn(lifecycle.clone().supervise("redis connection", async move {
            let on_connected = |connection: &_, pushes| kept.on_connected(connection, pushes);
            kept.core.connection_keeper.keep(server, &config.kind, on_connected).await;
        }));
        Ok(Self { node, queue, keeper })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.keeper.abort();
        self.node.core.connection_keeper.close();
    }
}

impl Node {
    /// Subscribes on a new connection and resyncs every mirror.
    fn on_connected(self: &Arc<Self>, connection: &Arc<Connection>, pushes: PushStream) {
        let runtime = &self.core.runtime;
        runtime.spawn(self.clone().read_pushes(Arc::downgrade(connection), pushes));
        let (node, connection) = (self.clone(), connection.clone());
        runtime.spawn(async move {
            // Before the first probe can return: a node that is ready must be in the list of nodes.
            node.core.announce_node(&connection).await;
            node.subscribe_own_channels(&connection).await;
            node.probe(&connection).await;
        });
        self.resync_all();
    }

    fn resync_all(&self) {
        let mirrors: Vec<_> = self.mirrors.lock().values().cloned().collect();
        mirrors.iter().for_each(|mirror| mirror.resync(&self.core));
    }

    /// Handles the pushes of one connection until it is closed.
    async fn read_pushes(self: Arc<Self>, connection: Weak<Connection>, mut pushes: PushStream) {
        // A connection without a reader of its pushes is of no use. This task may end by a panic.
        let _lost = LostOnDrop(connection.clone());
        while let Some(push) = pushes.next().await {
            match push.kind {
                PushKind::Message | PushKind::SMessage => self.on_push(&push).await,
                // One of a Cluster's connections, which the library reopens.
                PushKind::Disconnection if connection.upgrade().is_some_and(|connection| connection.is_cluster()) => {
                    self.resync_all();
                }
                PushKind::Disconnection => return,
                // A slot moved to another master.
                PushKind::SUnsubscribe => {
                    if let Some(mirror) = name_of(&push).and_then(|name| self.mirror_of(name)) {
                        mirror.resync(&self.core);
                    }
                }
                _ => {}
            }
        }
    }

    async fn on_push(&self, push: &PushInfo) {
        let (Some(name), Some(Value::BulkString(bytes))) = (name_of(push), push.data.get(1)) else { return };
        match self.mirror_of(name) {
            Some(mirror) => match Message::read(bytes) {
                Some(Message::Publication(received))
                    if !is_authentic_now(&self.core.guard, &mirror.channel, &received) => {}
                Some(message) => deliver(mirror.on_message(&self.core, message)).await,
                None => folded!(WARN, "", "cannot decode message from redis", name),
            },
            None if name == self.core.keys.node(&self.core.node) => {
                self.core.messages.on_message(&self.core.guard, name, bytes);
            }
            None if self.probes.iter().any(|probe| probe == name) => self.health.seen(Instant::now()),
            None => {}
        }
    }

    fn mirror_of(&self, pubsub: &str) -> Option<Arc<Mirror>> {
        self.mirrors.lock().get(&self.core.keys.channel(pubsub)?).cloned()
    }

    /// The mirror of a channel or waiting name. A new one starts to resync.
    async fn mirror(&self, channel: &ChannelName, holder: Holder) -> Result<HeldMirror, Refusal> {
        let channels = &self.core.channels;
        match self.mirror_of_log(channel, || channels.hold(channel, holder, Now::read())) {
            // A channel that another node made is no waiting name.
            Err(refusal) if refusal.code == ErrorCode::LimitReached && self.core.exists(channel).await? => self
                .mirror_of_log(channel, || channels.with_log(channel, Now::read(), |log, _| Ok((log.clone(), None)))),
            held => held,
        }
    }

    /// The mirror of the log that `hold` returns.
    fn mirror_of_log(
        &self,
        channel: &ChannelName,
        hold: impl FnOnce() -> Result<(SharedLog, Option<Wait>), Refusal>,
    ) -> Result<HeldMirror, Refusal> {
        // Locked first, so that the log is not replaced by another one meanwhile.
        let mut mirrors = self.mirrors.lock();
        let (log, wait) = hold()?;
        if let Some(mirror) = mirrors.get(channel).filter(|mirror| Arc::ptr_eq(&mirror.log, &log)) {
            mirror.log.lock().last_used = Instant::now();
            return Ok((mirror.clone(), wait));
        }
        let mirror = Mirror::new(channel.clone(), log);
        mirrors.insert(channel.clone(), mirror.clone());
        mirror.resync(&self.core);
        Ok((mirror, wait))
    }

    fn max_subscribers(&self, mirror: &Mirror) -> u64 {
        mirror.log.lock().limits(self.core.channels.rules.load().of(&mirror.channel)).max_connections
    }

    async fn reserve_slot(self: Arc<Self>, channel: ChannelName, holder: Holder) -> Result<SubscriberSlot, Refusal> {
        let core = &self.core;
        let reserved = tokio::time::timeout(SUBSCRIBE_TIMEOUT, async {
            let (mut mirror, mut wait) = self.mirror(&channel, holder).await?;
            let mut is_resynced = false;
            loop {
                core.connection_keeper.wait(SUBSCRIBE_TIMEOUT).await?;
                mirror.ready().await;
                let state = mirror.log.lock().state;
                match state {
                    LogState::Removed => (mirror, wait) = self.mirror(&channel, holder).await?,
                    // The channel may have been created again.
                    LogState::Ended(_) if !std::mem::replace(&mut is_resynced, true) => mirror.resync(core),
                    _ => {
                        mirror.wait_until_current(core).await?;
                        if mirror.log.lock().state != LogState::Removed {
                            break;
                        }
                    }
                }
            }
            mirror.check_room(core)?;
            let limit = self.max_subscribers(&mirror);
            if limit == 0 && wait.is_none() {
                return Ok(SubscriberSlot::default());
            }
            let reservation = match mirror.quota.reserve(core, &*core.connection()?, limit).await {
                // Without a limit it reserves only the epoch of a waiting name, which a full Redis can do without.
                Err(_) if limit == 0 => None,
                reservation => Some(reservation?),
            };
            Ok(SubscriberSlot::kept_by((wait, reservation)))
        });
        reserved.await.unwrap_or_else(|_| Err(unavailable()))
    }

    fn sweep(self: &Arc<Self>, now: Now) {
        let core = &self.core;
        let mut expired = Vec::new();
        core.channels.for_each(|channel, _, log, rule| {
            core.channels.end_long_wait(channel, log, rule, now);
            log.backlog.trim(rule, now.monotonic);
            if log.state == LogState::Live && log.has_expired(&log.limits(rule), now) {
                expired.push(channel.clone());
            }
            if core.channels.is_idle(channel, log, now) {
                core.channels.mark_removed(channel, log);
            }
        });
        core.channels.evict_over_budget(|_| {});
        self.health.unavailable_reason(now.monotonic);
        self.send_state(now.monotonic);
        let Ok(connection) = core.connection() else {
            // The next connection subscribes to the others alone.
            self.mirrors.lock().retain(|_, mirror| mirror.log.lock().state != LogState::Removed);
            return;
        };
        let silence = self.health.silent_for(now.monotonic).min(connection.age(now.monotonic));
        if connection.is_sharded() && silence >= CLUSTER_RECONNECT_AFTER {
            connection.mark_lost();
            return;
        }
        {
            // The script that resyncs a mirror ends an expired channel, for all nodes.
            let mirrors = self.mirrors.lock();
            expired.iter().filter_map(|channel| mirrors.get(channel)).for_each(|mirror| mirror.resync(core));
        }
        let node = self.clone();
        if let Ok(turn) = self.cleanup_turn.clone().try_lock_owned() {
            core.runtime.spawn(async move {
                let _turn = turn;
                node.cleanup(&connection).await;
            });
        }
        let node = self.clone();
        core.runtime.spawn(async move {
            if let Ok(connection) = node.core.connection() {
                node.probe(&connection).await;
            }
        });
    }

    /// Sends subscribers `degraded` and `restored` when this node is cut off from Redis and when it is not any more.
    fn send_state(self: &Arc<Self>, now: Instant) {
        let is_connected = self.core.connection().is_ok();
        let is_cut_off = match self.is_cut_off.load(Ordering::Relaxed) {
            true => !is_connected || !self.health.is_carried(now),
            false => {
                let silence = self.health.silent_for(now);
                silence >= probe::PROBE_TIMEOUT || (!is_connected && silence >= DEGRADED_AFTER)
            }
        };
        self.is_cut_off.store(is_cut_off, Ordering::Relaxed);
        let Ok(turn) = self.state_turn.clone().try_lock_owned() else { return };
        let node = self.clone();
        self.core.runtime.spawn(async move {
            let _turn = turn;
            let mirrors: Vec<_> = node.mirrors.lock().values().cloned().collect();
            for mirror in mirrors {
                mirror.send_state(&node.core, is_cut_off);
                // Other tasks run between two channels.
                tokio::task::yield_now().await;
            }
        });
    }

    fn probes_on(&self, connection: &Connection) -> &[String] {
        if connection.is_cluster() { &self.probes } else { &self.probes[..1] }
    }

    /// Subscribes to this node's probes and to messages of other nodes.
    async fn subscribe_own_channels(&self, connection: &Connection) {
        let node = self.core.keys.node(&self.core.node);
        let names = self.probes_on(connection).iter().chain([&node]);
        join_all(names.map(|name| connection.subscribe(name))).await;
    }

    /// Publishes probes to this node and writes them as keys, as publications are.
    async fn probe(&self, connection: &Connection) {
        let probes = self.probes_on(connection).iter().map(|probe| async move {
            let (mut publish, mut write) = (redis::cmd(connection.publish()), redis::cmd("SET"));
            publish.arg(probe).arg("probe");
            write.arg(probe).arg("probe").arg("PX").arg(millis(PROBE_TTL));
            // `health` notices a probe that does not return.
            let (receivers, written) = tokio::join!(connection.query::<u64>(&publish), connection.write(&write));
            self.health.written(written, Instant::now());
            matches!(receivers, Ok(0))
        });
        let has_no_receiver = join_all(probes).await;
        if connection.is_sharded() {
            // A master restarted, or the library reconnected without a push: subscriptions are lost.
            if has_no_receiver.contains(&true) {
                self.resync_all();
            }
            self.subscribe_own_channels(connection).await;
        }
    }
}

/// Marks a connection as lost when it is dropped.
struct LostOnDrop(Weak<Connection>);

impl Drop for LostOnDrop {
    fn drop(&mut self) {
        if let Some(connection) = self.0.upgrade() {
            connection.mark_lost();
        }
    }
}

impl Engine for Redis {
    fn append(
        &self,
        channel: &ChannelName,
        publisher: &str,
        payload: Payload<'_>,
        _now: Now,
    ) -> Result<Appended, Refusal> {
        let core = &self.node.core;
        let connection = core.connection()?;
        let rules = core.channels.rules.load();
        let rule = rules.of(channel);
        let (limits, keys) = (&rule.limits, &core.keys);
        let stream_ttl = if rule.backlog_age.is_zero() { core.idle } else { rule.backlog_age.min(core.idle) };
        let (encoded, new_epoch) = (wire::encode(publisher, payload), new_epoch()?);
        let bytes = encoded.len();
        let publication = Unsigned::new(&core.guard, channel.clone(), &encoded, new_epoch.clone());
        let mut script = SCRIPTS.append.prepare_invoke();
        script.key(keys.state(channel)).key(keys.stream(channel));
        script.arg(&*new_epoch).arg(&connection.marker).arg(encoded).arg(payload.len());
        script.arg(limits.max_messages).arg(limits.max_data_bytes).arg(limits.max_message_bytes);
        script.arg(millis(limits.lifespan)).arg(rule.backlog_messages);
        script.arg(millis(core.idle)).arg(millis(stream_ttl)).arg(keys.pubsub(channel)).arg(connection.publish());
        self.queue.push(connection, script, publication, bytes).map(Appended::Pending)
    }

    fn prepare_subscribe(
        &self,
        channel: &ChannelName,
        holder: Holder,
    ) -> Option<EngineFuture<'static, SubscriberSlot>> {
        Some(Box::pin(self.node.clone().reserve_slot(channel.clone(), holder)))
    }

    fn subscribe(
        &self,
        channel: &ChannelName,
        request: JoinRequest,
        start: Start,
        now: Now,
        on_joined: &mut dyn FnMut(Joined<'_>),
    ) -> Result<Membership, Refusal> {
        let channels = &self.node.core.channels;
        let mirror = self.node.mirrors.lock().get(channel).cloned().ok_or_else(unavailable)?;
        // Dropped after the lock is released.
        let wait = channels.hold_log(channel, &mirror.log, request.holder)?;
        let mut log = mirror.log.lock();
        if log.state == LogState::Removed || !mirror.is_loaded() {
            return Err(unavailable());
        }
        let joined = channels.join(channel, &mut log, request, start, now, on_joined);
        joined.map(|membership| membership.with_guard(wait)).map_err(|refused| {
            if let Some(reason) = refused.ended {
                channels.end(channel, &mut log, reason);
            }
            refused.refusal
        })
    }

    fn create<'a>(
        &'a self,
        channel: &'a ChannelName,
        limits: Option<ChannelLimits>,
        _now: Now,
    ) -> EngineFuture<'a, Created> {
        Box::pin(self.node.core.create(channel, limits))
    }

    fn describe<'a>(&'a self, channel: &'a ChannelName) -> EngineFuture<'a, Option<ChannelState>> {
        Box::pin(self.node.core.describe(channel))
    }

    fn publisher_of(&self, channel: &ChannelName, position: &Position) -> Option<Arc<str>> {
        self.node.core.channels.find(channel)?.lock().publisher_of(position).cloned()
    }

    fn close<'a>(&'a self, channel: &'a ChannelName) -> EngineFuture<'a, bool> {
        Box::pin(self.node.core.close(channel))
    }

    fn sweep(&self, now: Now) {
        self.node.sweep(now);
    }

    fn shared_store(&self) -> &dyn SharedStore {
        &*self.node.core
    }

    fn node_bus(&self) -> Option<Arc<dyn NodeBus>> {
        Some(self.node.core.clone())
    }

    fn unavailable_reason(&self) -> Option<&'static str> {
        let reason = self.node.health.unavailable_reason(Instant::now());
        if self.node.core.connection().is_err() { Some(probe::UNAVAILABLE) } else { reason }
    }
}
