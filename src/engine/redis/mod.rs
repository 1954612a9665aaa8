//! The engine of many nodes: Redis gives offsets, keeps the backlog and carries publications from node to node.
//!
//! A publication is one script that gives it its place, keeps it and publishes it to all nodes. Members get it when
//! it comes back, on this node as on every other, through the channel's mirror.

mod channel;
mod connection;
mod keys;
mod mirror;
mod node_bus;
mod probe;
mod queue;
mod server;
mod shared_store;
mod subscriber_quota;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use tokio::runtime::Handle;
use tokio::sync::{RwLock, Semaphore};
use tokio::task::JoinHandle;

use self::connection::{Connection, ConnectionKeeper, PushStream, away};
use self::keys::{Keys, PROBES, SCRIPTS};
use self::mirror::{Mirror, deliver};
use self::node_bus::MessageRouter;
use self::probe::HealthProbe;
use self::queue::Queue;
use self::server::Server;
use self::wire::Message;
use super::channels::{Channels, MemoryLimits, new_epoch};
use super::log::LogState;
use crate::broker::engine::{Appended, ChannelState, Created, Joined, Start, SubscriberSlot};
use crate::broker::{
    ChannelLimits, ChannelRules, Counters, Engine, Hub, JoinRequest, Membership, NodeBus, Now, SharedStore,
};
use crate::protocol::{ChannelName, Payload, Position, Refusal};

pub use self::server::{RedisConfig, RedisError, RedisKind};
pub use self::shared_store::nodes;

/// Who wants to listen waits for Redis so long.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// Mirrors that read at once.
const MAX_CONCURRENT_RESYNCS: usize = 64;

/// What a probe writes goes by itself.
const PROBE_TTL: Duration = Duration::from_secs(10);

/// Without a connection and a probe for so long, subscribers are told. Redis may be restarted in less.
const CUT_OFF_AFTER: Duration = Duration::from_secs(2);

/// A Cluster's connection through which nothing came back for so long is given up. The library opens what broke again by
/// itself, and that it waits for something that never comes was seen once.
const CLUSTER_RECONNECT_AFTER: Duration = Duration::from_secs(10);

pub struct Redis {
    core: Arc<Core>,
    queue: Queue,
    keeper: JoinHandle<()>,
}

struct Core {
    channels: Channels,
    names: Keys,
    /// Of this node. Where there is no Cluster the first is enough.
    probes: [String; PROBES],
    link: ConnectionKeeper,
    mirrors: Mutex<HashMap<ChannelName, Arc<Mirror>>>,
    readers: Semaphore,
    /// Written to while names are given up, so that none is given up that somebody just wants.
    subscribing: RwLock<()>,
    canary: HealthProbe,
    words: MessageRouter,
    is_tidying: AtomicBool,
    is_telling: AtomicBool,
    is_cut_off: AtomicBool,
    /// Different for every start.
    node: String,
    idle: Duration,
    runtime: Handle,
}

impl Redis {
    /// Begins to connect and returns at once. Needs a tokio runtime. The error says what is wrong with an address.
    pub fn start(
        config: RedisConfig,
        limits: MemoryLimits,
        rules: Arc<ArcSwap<ChannelRules>>,
        hub: Hub,
        counters: Arc<Counters>,
    ) -> Result<Self, RedisError> {
        let server = Server::new(&config).map_err(|error| RedisError(error.to_string()))?;
        let node = new_epoch().map_err(|refusal| RedisError(refusal.detail.into_owned()))?.to_string();
        let names = Keys::new(&config.prefix);
        let core = Arc::new(Core {
            channels: Channels::new(limits, rules, hub, counters.clone()),
            probes: names.probes(&node),
            names,
            link: ConnectionKeeper::default(),
            mirrors: Mutex::default(),
            readers: Semaphore::new(MAX_CONCURRENT_RESYNCS),
            subscribing: RwLock::default(),
            canary: HealthProbe::new(),
            words: MessageRouter::default(),
            is_tidying: AtomicBool::new(false),
            is_telling: AtomicBool::new(false),
            is_cut_off: AtomicBool::new(false),
            node,
            idle: limits.idle,
            runtime: Handle::current(),
        });
        let (kept, queue) = (core.clone(), Queue::start(counters, &config.kind));
        let keeper = tokio::spawn(async move {
            kept.link.keep(server, &config.kind, |session, pushes| kept.up(session, pushes)).await;
        });
        Ok(Self { core, queue, keeper })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.keeper.abort();
        self.core.link.close();
    }
}

impl Core {
    /// There is a new connection: everything is subscribed to and read anew.
    fn up(self: &Arc<Self>, session: &Arc<Connection>, pushes: PushStream) {
        self.runtime.spawn(self.clone().listen(Arc::downgrade(session), pushes));
        let (core, session) = (self.clone(), session.clone());
        self.runtime.spawn(async move {
            // Before a probe can come back: whoever is ready can be found.
            core.appear(&session).await;
            core.listen_to_itself(&session).await;
            core.probe(&session).await;
        });
        self.renew_all();
    }

    fn renew_all(self: &Arc<Self>) {
        let mirrors: Vec<_> = self.mirrors.lock().values().cloned().collect();
        mirrors.iter().for_each(|mirror| mirror.renew(self));
    }

    /// Takes what comes over one connection until it is gone.
    async fn listen(self: Arc<Self>, session: std::sync::Weak<Connection>, mut pushes: PushStream) {
        while let Some(push) = pushes.next().await {
            match push.kind {
                PushKind::Message | PushKind::SMessage => self.take(&push).await,
                // One of a Cluster's connections, which the library opens again.
                PushKind::Disconnection if session.upgrade().is_some_and(|session| session.is_cluster()) => {
                    self.renew_all();
                }
                PushKind::Disconnection => {
                    if let Some(session) = session.upgrade() {
                        session.lose();
                    }
                    return;
                }
                // A slot moved to another master.
                PushKind::SUnsubscribe => {
                    if let Some(mirror) = name_of(&push).and_then(|name| self.mirror_of(name)) {
                        mirror.renew(&self);
                    }
                }
                _ => {}
            }
        }
    }

    async fn take(self: &Arc<Self>, push: &PushInfo) {
        let (Some(name), Some(Value::BulkString(bytes))) = (name_of(push), push.data.get(1)) else { return };
        match self.mirror_of(name) {
            Some(mirror) => match Message::read(bytes) {
                Some(message) => deliver(mirror.take(self, message)).await,
                None => tracing::warn!(name, "a message over redis that is not the gateway's"),
            },
            None if name == self.names.node(&self.node) => self.words.take(bytes),
            None if self.probes.iter().any(|probe| probe == name) => self.canary.seen(Instant::now()),
            None => {}
        }
    }

    fn mirror_of(&self, live: &str) -> Option<Arc<Mirror>> {
        self.mirrors.lock().get(&self.names.channel(live)?).cloned()
    }

    /// The mirror of a channel, which begins to read if it is new.
    fn mirror(self: &Arc<Self>, channel: &ChannelName) -> Result<Arc<Mirror>, Refusal> {
        let mut mirrors = self.mirrors.lock();
        if let Some(mirror) = mirrors.get(channel) {
            let mut log = mirror.log.lock();
            if log.state != LogState::Removed {
                log.last_used = Instant::now();
                drop(log);
                return Ok(mirror.clone());
            }
        }
        let log = self.channels.with_log(channel, Now::read(), |shared, _| Ok(shared.clone()))?;
        let mirror = Mirror::new(channel.clone(), log);
        mirrors.insert(channel.clone(), mirror.clone());
        mirror.renew(self);
        Ok(mirror)
    }

    fn limit(&self, mirror: &Mirror) -> u64 {
        mirror.log.lock().limits(self.channels.rules.load().of(&mirror.channel)).max_connections
    }

    async fn attach(self: Arc<Self>, channel: ChannelName) -> Result<SubscriberSlot, Refusal> {
        let attached = tokio::time::timeout(COMMAND_TIMEOUT, async {
            let (mut mirror, mut is_looked_at) = (self.mirror(&channel)?, false);
            loop {
                self.link.wait(COMMAND_TIMEOUT).await?;
                mirror.ready().await;
                let state = mirror.log.lock().state;
                match state {
                    LogState::Removed => mirror = self.mirror(&channel)?,
                    // It may have begun anew.
                    LogState::Ended(_) if !std::mem::replace(&mut is_looked_at, true) => mirror.renew(&self),
                    _ => break,
                }
            }
            mirror.reach(&self).await?;
            let limit = self.limit(&mirror);
            if limit == 0 {
                return Ok(SubscriberSlot::default());
            }
            let session = self.link.session()?;
            subscriber_quota::reserve(&self, &session, &mirror, limit).await.map(SubscriberSlot::kept_by)
        });
        attached.await.unwrap_or_else(|_| Err(away()))
    }

    fn sweep(self: &Arc<Self>, now: Now) {
        let mut expired = Vec::new();
        self.channels.for_each(|channel, _, log, rule| {
            log.backlog.trim(rule, now.monotonic);
            if log.state == LogState::Live && log.has_expired(&log.limits(rule), now) {
                expired.push(channel.clone());
            }
            if self.channels.is_idle(channel, log, now) {
                self.channels.mark_removed(log);
            }
        });
        self.channels.evict_over_budget(|_| {});
        self.canary.unavailable_reason(now.monotonic);
        self.tell_state(now.monotonic);
        let Ok(session) = self.link.session() else { return };
        if session.is_sharded()
            && self.canary.silent_for(now.monotonic).min(session.age(now.monotonic)) >= CLUSTER_RECONNECT_AFTER
        {
            session.lose();
            return;
        }
        {
            // Redis ends them, for all nodes.
            let mirrors = self.mirrors.lock();
            expired.iter().filter_map(|channel| mirrors.get(channel)).for_each(|mirror| mirror.renew(self));
        }
        let core = self.clone();
        if !self.is_tidying.swap(true, Ordering::AcqRel) {
            self.runtime.spawn(async move {
                core.tidy(&session).await;
                core.is_tidying.store(false, Ordering::Release);
            });
        }
        let core = self.clone();
        self.runtime.spawn(async move {
            if let Ok(session) = core.link.session() {
                core.probe(&session).await;
            }
        });
    }

    /// Tells subscribers whether this node is cut off.
    fn tell_state(self: &Arc<Self>, now: Instant) {
        let has_session = self.link.session().is_ok();
        let is_cut_off = match self.is_cut_off.load(Ordering::Relaxed) {
            true => !has_session || !self.canary.is_carried(now),
            false => {
                let silence = self.canary.silent_for(now);
                silence >= probe::PROBE_TIMEOUT || (!has_session && silence >= CUT_OFF_AFTER)
            }
        };
        self.is_cut_off.store(is_cut_off, Ordering::Relaxed);
        if self.is_telling.swap(true, Ordering::AcqRel) {
            return;
        }
        let core = self.clone();
        self.runtime.spawn(async move {
            let mirrors: Vec<_> = core.mirrors.lock().values().cloned().collect();
            for mirror in mirrors {
                mirror.tell_state(&core, is_cut_off);
                // Others have their turn between two channels.
                tokio::task::yield_now().await;
            }
            core.is_telling.store(false, Ordering::Release);
        });
    }

    /// Renews what this node holds in Redis and gives up what nobody here wants.
    async fn tidy(self: &Arc<Self>, session: &Arc<Connection>) {
        let mirrors: Vec<_> = self.mirrors.lock().values().cloned().collect();
        let (forgotten, kept): (Vec<_>, Vec<_>) =
            mirrors.into_iter().partition(|mirror| mirror.log.lock().state == LogState::Removed);
        futures_util::stream::iter(kept.iter().filter(|mirror| mirror.is_ready()))
            .for_each_concurrent(MAX_CONCURRENT_RESYNCS, |mirror| async move {
                // It is tried again with the next sweep.
                let _ = subscriber_quota::keep(self, session, mirror, self.limit(mirror)).await;
            })
            .await;
        if forgotten.is_empty() {
            return;
        }
        let _nobody_subscribes = self.subscribing.write().await;
        for mirror in forgotten {
            let is_gone = {
                let mut mirrors = self.mirrors.lock();
                let is_same = mirrors.get(&mirror.channel).is_some_and(|known| Arc::ptr_eq(known, &mirror));
                if is_same {
                    mirrors.remove(&mirror.channel);
                }
                is_same
            };
            if is_gone {
                // At worst something comes that nobody here wants.
                let _ = session.unsubscribe(&self.names.pubsub(&mirror.channel)).await;
            }
        }
    }

    fn probes_on(&self, session: &Connection) -> &[String] {
        if session.is_cluster() { &self.probes } else { &self.probes[..1] }
    }

    /// Hears its probes and the words that other nodes have for it.
    async fn listen_to_itself(&self, session: &Connection) {
        let node = self.names.node(&self.node);
        let names = self.probes_on(session).iter().chain([&node]);
        futures_util::future::join_all(names.map(|name| session.subscribe(name))).await;
    }

    /// Sends a word to this node, and writes one down: each as publications are.
    async fn probe(self: &Arc<Self>, session: &Connection) {
        let probes = self.probes_on(session).iter().map(|probe| async move {
            let (mut send, mut write) = (redis::cmd(session.publish()), redis::cmd("SET"));
            send.arg(probe).arg("probe");
            write.arg(probe).arg("probe").arg("PX").arg(millis(PROBE_TTL));
            // What does not come back is noticed.
            let (heard, written) = tokio::join!(session.query::<u64>(&send), session.write(&write));
            self.canary.written(written, Instant::now());
            matches!(heard, Ok(0))
        });
        let is_unheard = futures_util::future::join_all(probes).await;
        if session.is_sharded() {
            // A master came back, or the library took another connection without a word: what was subscribed to is lost.
            if is_unheard.contains(&true) {
                self.renew_all();
            }
            self.listen_to_itself(session).await;
        }
    }
}

/// The pub/sub that a push is of.
fn name_of(push: &PushInfo) -> Option<&str> {
    match push.data.first()? {
        Value::BulkString(name) => std::str::from_utf8(name).ok(),
        _ => None,
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
        let core = &self.core;
        let session = core.link.session()?;
        let rules = core.channels.rules.load();
        let rule = rules.of(channel);
        let (limits, names) = (&rule.limits, &core.names);
        let kept_for = if rule.backlog_age.is_zero() { core.idle } else { rule.backlog_age.min(core.idle) };
        let encoded = wire::encode(publisher, payload);
        let bytes = encoded.len();
        let mut script = SCRIPTS.append.prepare_invoke();
        script.key(names.state(channel)).key(names.stream(channel));
        script.arg(&*new_epoch()?).arg(&session.marker).arg(encoded).arg(payload.len());
        script.arg(limits.max_messages).arg(limits.max_data_bytes).arg(limits.max_message_bytes);
        script.arg(millis(limits.lifespan)).arg(rule.backlog_messages);
        script.arg(millis(core.idle)).arg(millis(kept_for)).arg(names.pubsub(channel)).arg(session.publish());
        self.queue.push(session, script, bytes).map(Appended::Pending)
    }

    fn prepare_subscribe(&self, channel: &ChannelName) -> Option<BoxFuture<'static, Result<SubscriberSlot, Refusal>>> {
        Some(Box::pin(self.core.clone().attach(channel.clone())))
    }

    fn subscribe(
        &self,
        channel: &ChannelName,
        newcomer: JoinRequest,
        start: Start,
        now: Now,
        announce: &mut dyn FnMut(Joined<'_>),
    ) -> Result<Membership, Refusal> {
        let core = &self.core;
        let mirror = core.mirrors.lock().get(channel).cloned().ok_or_else(away)?;
        let mut log = mirror.log.lock();
        if log.state == LogState::Removed || !mirror.is_loaded() {
            return Err(away());
        }
        core.channels.join(channel, &mut log, newcomer, start, now, announce).map_err(|refused| {
            if let Some(reason) = refused.ended {
                core.channels.end(channel, &mut log, reason);
            }
            refused.refusal
        })
    }

    fn create<'a>(
        &'a self,
        channel: &'a ChannelName,
        limits: Option<ChannelLimits>,
        _now: Now,
    ) -> BoxFuture<'a, Result<Created, Refusal>> {
        Box::pin(self.core.create(channel, limits))
    }

    fn describe<'a>(&'a self, channel: &'a ChannelName) -> BoxFuture<'a, Result<Option<ChannelState>, Refusal>> {
        Box::pin(self.core.describe(channel))
    }

    fn publisher_of(&self, channel: &ChannelName, position: &Position) -> Option<Arc<str>> {
        self.core.channels.find(channel)?.lock().publisher_of(position).cloned()
    }

    fn close<'a>(&'a self, channel: &'a ChannelName) -> BoxFuture<'a, Result<bool, Refusal>> {
        Box::pin(self.core.close(channel))
    }

    fn sweep(&self, now: Now) {
        self.core.sweep(now);
    }

    fn shared_store(&self) -> Option<&dyn SharedStore> {
        Some(&*self.core)
    }

    fn node_bus(&self) -> Option<Arc<dyn NodeBus>> {
        Some(self.core.clone())
    }

    fn unavailable_reason(&self) -> Option<&'static str> {
        let trouble = self.core.canary.unavailable_reason(Instant::now());
        if self.core.link.session().is_err() { Some(probe::UNAVAILABLE) } else { trouble }
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
