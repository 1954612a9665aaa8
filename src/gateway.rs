//! The composition root: a checked configuration in, a running gateway out; the order of start and of stop.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::metrics::{Counter, counter};
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};
use tokio::task::JoinSet;

use crate::auth::fetch::{FetchError, Fetcher};
use crate::auth::login::Login;
use crate::auth::publisher::{DuplicateKey, PasswordVerifier, Whitelist};
use crate::auth::seal::NoRandomness;
use crate::auth::token::{IssuerError, Issuers};
use crate::auth::{Policy, RevocationError, Revocations};
use crate::broker::channel::fanout::Delivery;
use crate::broker::connection::registry::Registry;
use crate::broker::room::Rooms;
use crate::broker::{Connection, Counters, Engine, Hub, Now, Replies};
use crate::cluster::membership;
use crate::cluster::presence;
use crate::cluster::replies;
use crate::cluster::rooms;
use crate::cluster::rooms::ClusterRooms;
use crate::config::{self, Config, DrainConfig, EngineConfig, PolicyConfig};
use crate::engine::{Disk, DiskError, Memory, Redis, RedisError};
use crate::geo::{GeoDb, GeoError};
use crate::ops::{Lifecycle, Phase, Statsd, metrics};
use crate::protocol::CloseReason;
use crate::transport::accept::connection_limits::ConnectionLimiter;
use crate::transport::accept::listener::{ListenError, Listener, load_tls};
use crate::transport::accept::tls::{Certificate, TlsError};
use crate::transport::compat::flock::subscribe as flock;
use crate::transport::config::{Address, ListenerConfig, TransportLimits};
use crate::transport::control::{Control, Readers};
use crate::transport::credential::tickets::Tickets;
use crate::transport::publish::idempotency::Idempotency;
use crate::transport::routes::routes;
use crate::transport::state::AppState;

/// Subscribers that a delivery writes to before other tasks have their turn.
const MAX_SUBSCRIBERS_PER_TURN: usize = 128;

/// How often deadlines, lifespans and pings are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// How long the stop waits for the last counts to be sent, and for the last word to other nodes.
const LAST_COUNTS: Duration = Duration::from_millis(500);
const LAST_WORD: Duration = Duration::from_millis(500);

/// How long other nodes are given to hear of those that went last.
const LAST_SWEEP: Duration = Duration::from_millis(250);

/// A gateway whose listeners are bound and do not accept yet.
pub struct Gateway {
    app: Arc<AppState>,
    listeners: Vec<Listener>,
    admission: Arc<ConnectionLimiter>,
    drain: DrainConfig,
    reloads: Reloads,
}

/// What a drain found and left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections that were told to go.
    pub closed: usize,
    /// Connections that were still there at the deadline.
    pub left: usize,
}

/// Changes the policy of a running gateway.
#[derive(Clone)]
pub struct Reloader {
    app: Arc<AppState>,
    certificates: Vec<Arc<Certificate>>,
    reloads: Reloads,
}

#[derive(Clone)]
struct Reloads {
    /// What a new issuer's metrics are made with.
    recorder: Arc<PrometheusRecorder>,
    applied: Counter,
    refused: Counter,
}

impl Gateway {
    /// Checks and binds everything; nothing is accepted before [`Gateway::run`]. Needs a tokio runtime.
    pub fn bind(config: Config, demo: bool) -> Result<Self, StartError> {
        let (recorder, handle) = metrics::recorder();
        let recorder = Arc::new(recorder);
        ::metrics::with_local_recorder(&*recorder, || Self::bind_counted(config, demo, handle, recorder.clone()))
    }

    fn bind_counted(
        config: Config,
        demo: bool,
        metrics: PrometheusHandle,
        recorder: Arc<PrometheusRecorder>,
    ) -> Result<Self, StartError> {
        // `egress` needs nothing here: it was held against whatever opens a connection. `log` is the process's own.
        let Config { egress: _, fetch, log: _, engine, listeners, limits, rooms, geoip, statsd, drain, policy } =
            config;
        let PolicyConfig { publishers, issuers, channels, revocations, login } = policy;
        let whitelist = Whitelist::new(publishers, limits.max_replay_nonces)?;
        let fetcher = fetch.map(Fetcher::new).transpose()?.map(Arc::new);
        let mut issuers = Issuers::new(issuers)?;
        issuers.start(fetcher.as_ref());
        let policy = Policy::new(whitelist, issuers, channels.rules.clone(), Revocations::new(limits.max_revocations));
        policy.revocations().replace_from_file(revocations, Now::read().unix())?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let counters = Arc::new(Counters::default());
        let hub = Hub::new(cores, counters.clone(), spawn_delivery);
        let rules = policy.rules().clone();
        let engine: Arc<dyn Engine> = match engine {
            EngineConfig::Memory => Arc::new(Memory::new(limits.memory, rules, hub.clone(), counters.clone())),
            EngineConfig::Disk(disk) => {
                Arc::new(Disk::open(&disk, limits.memory, rules, hub.clone(), counters.clone())?)
            }
            EngineConfig::Redis(redis) => {
                Arc::new(Redis::start(redis, limits.memory, rules, hub.clone(), counters.clone())?)
            }
        };
        let TransportLimits { max_connections, max_connections_per_address, .. } = limits.transport;
        let admission = ConnectionLimiter::new(max_connections, max_connections_per_address);
        let app = Arc::new(AppState {
            limits: limits.transport,
            max_subscriptions: limits.max_subscriptions,
            connection_limits: Arc::new(limits.connection),
            room_connection_limits: Arc::new(rooms.connection_limits(&limits.connection)),
            flock_connection_limits: Arc::new(flock::connection_limits(&limits.connection)),
            basic: PasswordVerifier::default(),
            rooms: Rooms::new(rooms.limits.clone()),
            elsewhere: ClusterRooms::new(&engine, &rooms.limits),
            rooms_config: rooms,
            login: Login::new(login, policy.revocations())?,
            policy,
            fetcher,
            engine,
            hub,
            replies: Replies::new(limits.replies),
            idempotency: Idempotency::new(limits.idempotency),
            registry: Registry::new(counters),
            lifecycle: Lifecycle::default(),
            refusals: Default::default(),
            control: Control::new(Readers { rules: config::read_rules, keys: config::read_keys }, channels),
            tickets: Tickets::new(limits.max_tickets),
            places: geoip.map(GeoDb::open).transpose()?,
            statsd: Statsd::new(statsd),
            metrics,
            demo,
        });
        let listeners = Listener::bind_all(listeners, &app.connection_limits)?;
        let reloads = Reloads {
            recorder,
            applied: counter!("lastmile_reloads_total"),
            refused: counter!("lastmile_reload_failures_total"),
        };
        Ok(Self { app, listeners, admission, drain, reloads })
    }

    /// Each listener with where it really listens.
    pub fn listeners(&self) -> impl Iterator<Item = (&ListenerConfig, Address)> {
        self.listeners.iter().map(|listener| (listener.config(), listener.local_address()))
    }

    pub fn reloader(&self) -> Reloader {
        Reloader {
            app: self.app.clone(),
            certificates: self.listeners.iter().filter_map(Listener::certificate).collect(),
            reloads: self.reloads.clone(),
        }
    }

    /// Serves until `shutdown`, then drains.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> DrainReport {
        let Self { app, listeners, admission, drain, reloads: _ } = self;
        let routes = routes(app.clone());
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(listener.run(app.clone(), admission.clone(), routes.clone()));
        }
        let sweeper = tokio::spawn(sweep(app.clone()));
        let listener = tokio::spawn(membership::run(app.clone()));
        let carrier = tokio::spawn(replies::run(app.clone()));
        let neighbour = tokio::spawn(rooms::run(app.clone()));
        let watcher = tokio::spawn(presence::run(app.clone()));
        let (stop_statsd, stopped) = tokio::sync::oneshot::channel::<()>();
        let counted = app.clone();
        let statsd = tokio::spawn(async move { counted.statsd.run(async { drop(stopped.await) }).await });
        app.lifecycle.enter(Phase::Ready);

        shutdown.await;

        // From here on nothing is accepted and readiness says so.
        app.lifecycle.enter(Phase::Draining);
        let deadline = tokio::time::Instant::now() + drain.deadline;
        let closing = close_evenly(app.registry.begin_drain(), drain.window);
        let closed = tokio::time::timeout_at(deadline, closing).await.unwrap_or_else(|_| app.registry.len());
        let gone = async {
            while !app.registry.is_empty() || app.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.is_used()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            app.lifecycle.enter(Phase::Stopped);
            while tasks.join_next().await.is_some() {}
        };
        // What is left at the deadline is the report's matter.
        let _ = tokio::time::timeout_at(deadline, gone).await;
        app.lifecycle.enter(Phase::Stopped);
        if app.engine.node_bus().is_some() {
            // Other nodes are told of the last who went, and get their places.
            app.engine.sweep(Now::read());
            tokio::time::sleep(LAST_SWEEP).await;
        }
        sweeper.abort();
        listener.abort();
        carrier.abort();
        watcher.abort();
        neighbour.abort();
        if let Some(shared) = app.engine.shared_store() {
            // Otherwise its presence ends by itself.
            let _ = tokio::time::timeout(LAST_WORD, shared.deregister()).await;
        }
        // What was counted last is still sent, if that is done at once.
        drop(stop_statsd);
        let _ = tokio::time::timeout(LAST_COUNTS, statsd).await;
        DrainReport { closed, left: app.registry.len() }
    }
}

/// Closes connections for the drain, spread evenly over `window`. Returns their number.
async fn close_evenly(connections: Vec<Arc<Connection>>, window: Duration) -> usize {
    let (begun, count) = (tokio::time::Instant::now(), connections.len());
    // Each reference ends with its close: a held one would keep its socket open until the last connection is closed.
    for (index, connection) in connections.into_iter().enumerate() {
        // Many may be due at the same tick of the timer, and then this does not wait.
        tokio::time::sleep_until(begun + window.mul_f64(index as f64 / count as f64)).await;
        connection.close(CloseReason::Draining);
    }
    count
}

/// Runs a large delivery as a task, which yields to other tasks after each batch of subscribers.
pub fn spawn_delivery(mut delivery: Delivery) {
    tokio::spawn(async move {
        while delivery.run_some(MAX_SUBSCRIBERS_PER_TURN) {
            tokio::task::yield_now().await;
        }
    });
}

async fn sweep(app: Arc<AppState>) {
    let mut ticks = tokio::time::interval(SWEEP);
    // After a stall one sweep is due, not one for every second that was missed.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Now::read();
        app.registry.sweep(now.unix());
        app.engine.sweep(now);
        app.replies.sweep(now.monotonic);
        app.rooms.sweep(now.monotonic);
        app.policy.issuers().sweep(now.unix());
        app.policy.revocations().sweep(now.unix());
        app.tickets.sweep(now.monotonic);
    }
}

impl Reloader {
    /// Replaces the policy and the certificates, all or nothing.
    pub fn reload(&self, policy: PolicyConfig) -> Result<(), StartError> {
        let began = Instant::now();
        let result = self.try_reload(policy);
        match &result {
            Ok(()) => self.reloads.applied.increment(1),
            Err(_) => self.refused(),
        }
        tracing::debug!(took_ms = began.elapsed().as_millis() as u64, "reload");
        result
    }

    /// Takes new databases of places, apart from the rest: reading them takes seconds. Whether there were any.
    pub async fn reload_places(&self) -> Result<bool, StartError> {
        let app = self.app.clone();
        let reading = tokio::task::spawn_blocking(move || app.places.as_ref().map(GeoDb::reload).transpose());
        match reading.await {
            Ok(result) => Ok(result?.unwrap_or(false)),
            // The runtime is ending.
            Err(_) => Ok(false),
        }
    }

    /// Counts a reload that did not even come to [`Reloader::reload`].
    pub fn refused(&self) {
        self.reloads.refused.increment(1);
    }

    fn try_reload(&self, policy: PolicyConfig) -> Result<(), StartError> {
        let PolicyConfig { publishers, issuers, channels, revocations, login } = policy;
        let whitelist = self.app.policy.whitelist().rebuild(publishers)?;
        let mut issuers = self.app.policy.issuers().rebuild(issuers)?;
        let keys =
            self.certificates.iter().map(|certificate| certificate.read_again()).collect::<Result<Vec<_>, _>>()?;
        ::metrics::with_local_recorder(&*self.reloads.recorder, || issuers.start(self.app.fetcher.as_ref()));
        // The last that can fail, and whole or not at all.
        let policy = &self.app.policy;
        policy.revocations().keep_for(issuers.longest_lifetime());
        policy.revocations().replace_from_file(revocations, Now::read().unix())?;
        self.app.control.reload(channels, |rules| policy.replace(whitelist, issuers, rules));
        self.app.login.replace(login, policy.revocations());
        for (certificate, key) in self.certificates.iter().zip(keys) {
            certificate.replace(key);
        }
        self.app.registry.wake_all();
        Ok(())
    }
}

impl StartError {
    /// Whether the configuration is at fault, and not the state of the machine.
    pub fn is_misconfigured(&self) -> bool {
        match self {
            Self::Listen(ListenError::Bind { .. }) | Self::Randomness(_) => false,
            Self::Engine(error) => error.is_misconfigured(),
            _ => true,
        }
    }
}

/// Checks what only the composition can tell: certificates, key sets, keys that are listed twice, databases of places.
pub fn check(config: &Config) -> Result<(), StartError> {
    Whitelist::new(config.policy.publishers.clone(), config.limits.max_replay_nonces)?;
    Issuers::new(config.policy.issuers.clone())?;
    let revocations = Revocations::new(config.limits.max_revocations);
    revocations.keep_for(u64::MAX);
    revocations.replace_from_file(config.policy.revocations.clone(), Now::read().unix())?;
    config.fetch.clone().map(Fetcher::new).transpose()?;
    config.geoip.clone().map(GeoDb::open).transpose()?;
    config.listeners.iter().try_for_each(|listener| load_tls(listener).map(|_| ()))?;
    Ok(())
}

/// Why a gateway does not start, or does not take a new policy.
#[derive(Debug)]
pub enum StartError {
    Listen(ListenError),
    Tls(TlsError),
    Publishers(DuplicateKey),
    Issuers(IssuerError),
    Egress(FetchError),
    Places(GeoError),
    Engine(DiskError),
    Redis(RedisError),
    Revocations(RevocationError),
    Randomness(NoRandomness),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
            Self::Publishers(error) => error.fmt(f),
            Self::Issuers(error) => error.fmt(f),
            Self::Egress(error) => error.fmt(f),
            Self::Places(error) => error.fmt(f),
            Self::Engine(error) => error.fmt(f),
            Self::Redis(error) => error.fmt(f),
            Self::Revocations(error) => write!(f, "revocations_file: {error}"),
            Self::Randomness(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

impl From<DiskError> for StartError {
    fn from(error: DiskError) -> Self {
        Self::Engine(error)
    }
}

impl From<RedisError> for StartError {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl From<RevocationError> for StartError {
    fn from(error: RevocationError) -> Self {
        Self::Revocations(error)
    }
}

impl From<NoRandomness> for StartError {
    fn from(error: NoRandomness) -> Self {
        Self::Randomness(error)
    }
}

impl From<FetchError> for StartError {
    fn from(error: FetchError) -> Self {
        Self::Egress(error)
    }
}

impl From<GeoError> for StartError {
    fn from(error: GeoError) -> Self {
        Self::Places(error)
    }
}

impl From<ListenError> for StartError {
    fn from(error: ListenError) -> Self {
        Self::Listen(error)
    }
}

impl From<TlsError> for StartError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl From<DuplicateKey> for StartError {
    fn from(error: DuplicateKey) -> Self {
        Self::Publishers(error)
    }
}

impl From<IssuerError> for StartError {
    fn from(error: IssuerError) -> Self {
        Self::Issuers(error)
    }
}
