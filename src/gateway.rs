//! The composition root: builds a gateway from a checked configuration, runs it, reloads its policy, drains it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::metrics::{Counter, counter};
use arc_swap::ArcSwap;
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};
use tokio::task::JoinSet;

use crate::auth::fetch::{FetchError, Fetcher};
use crate::auth::login::Login;
use crate::auth::publisher::{DuplicateKey, MAX_SKEW_SECS, PasswordVerifier, Whitelist};
use crate::auth::seal::NoRandomness;
use crate::auth::token::{IssuerError, Issuers};
use crate::auth::{Policy, RevocationError, Revocations};
use crate::broker::channel::fanout::Delivery;
use crate::broker::channel::rules::AmbiguousPattern;
use crate::broker::connection::registry::Registry;
use crate::broker::room::Rooms;
use crate::broker::{Connection, Counters, Engine, Hub, Now, Replies};
use crate::cluster::Cluster;
use crate::cluster::membership::Member;
use crate::cluster::pushed_policy::{PolicyReaders, PolicySync};
use crate::cluster::rooms::{ClusterRooms, RemotePeerContext};
use crate::config::{self, Config, DrainConfig, EngineConfig, PolicyConfig};
use crate::engine::{Disk, DiskError, Memory, Redis, RedisError};
use crate::geo::{GeoDb, GeoError};
use crate::ops::{ClockWatch, Lifecycle, Phase, Statsd, descriptors, log, metrics};
use crate::protocol::CloseReason;
use crate::transport::accept::connection_limits::{ConnectionLimiter, Places};
use crate::transport::accept::listener::{ListenError, Listener, load_tls};
use crate::transport::accept::starting;
use crate::transport::accept::tls::{Certificate, TlsError};
use crate::transport::compat::flock::subscribe as flock;
use crate::transport::config::{Address, ListenerConfig, Role, TransportLimits};
use crate::transport::control::ControlCounters;
use crate::transport::credential::tickets::Tickets;
use crate::transport::publish::idempotency::Idempotency;
use crate::transport::rooms::remote::remote_peer_handler;
use crate::transport::routes::routes;
use crate::transport::state::AppState;

/// Subscribers that a delivery writes to before other tasks have their turn.
const MAX_SUBSCRIBERS_PER_TURN: usize = 128;

/// How often deadlines, lifespans and pings are checked.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How often the drain checks whether the last connection ended.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How often a start checks whether the second is over that it waits for.
const START_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long the stop waits for the last StatsD counts to be sent.
const STATSD_FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// A gateway whose listeners are bound and do not accept yet.
pub struct Gateway {
    app: Arc<AppState>,
    listeners: Vec<Listener>,
    connection_limiter: Arc<ConnectionLimiter>,
    drain: DrainConfig,
    clock: ClockWatch,
    reload_metrics: ReloadMetrics,
}

/// The result of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections that were closed.
    pub closed: usize,
    /// Connections that were still open at the deadline.
    pub left: usize,
    /// The task whose end began the drain, in place of a signal.
    pub failed_task: Option<&'static str>,
}

/// Replaces the policy of a running gateway.
#[derive(Clone)]
pub struct Reloader {
    app: Arc<AppState>,
    certificates: Vec<Arc<Certificate>>,
    reload_metrics: ReloadMetrics,
}

#[derive(Clone)]
struct ReloadMetrics {
    /// Registers the metrics of new issuers.
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
        // `egress` was checked against every outgoing connection. `log` was applied when the process started.
        let Config { egress: _, fetch, log: _, engine, listeners, limits, rooms, geoip, statsd, drain, policy } =
            config;
        let PolicyConfig { publishers, issuers, channels, revocations, login } = policy;
        let start = Now::read().unix();
        let mut whitelist = Whitelist::new(publishers, limits.max_replay_nonces)?;
        let fetcher = fetch.map(Fetcher::new).transpose()?.map(Arc::new);
        let mut issuers = Issuers::new(issuers)?.with_max_token_bytes(limits.transport.max_token_bytes);
        let lifecycle = Arc::new(Lifecycle::default());
        issuers.start(fetcher.as_ref(), &lifecycle);
        let revocations_in_force = Revocations::new(limits.max_revocations);
        revocations_in_force.keep_for(issuers.longest_lifetime());
        revocations_in_force.replace_from_file(revocations, start)?;
        listeners.iter().try_for_each(|listener| load_tls(listener).map(drop))?;
        let (ops, others) = listeners.into_iter().partition(|listener| listener.roles.contains(&Role::Ops));
        let mut listeners = Listener::bind_all(ops, &limits.connection)?;
        // Reading a large store takes seconds, in which the process must not look dead.
        let probes = matches!(engine, EngineConfig::Disk(_)).then(|| starting::answer_probes(&listeners));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let counters = Arc::new(Counters::default());
        let hub = Hub::new(cores, counters.clone(), spawn_delivery);
        let rules = Arc::new(ArcSwap::from_pointee(channels.rules.clone()));
        let in_force = rules.clone();
        let engine: Arc<dyn Engine> = match engine {
            EngineConfig::Memory { ledger } => {
                let open = |config| {
                    Disk::open(&config, limits.memory, rules.clone(), hub.clone(), counters.clone(), lifecycle.clone())
                };
                let ledger = ledger.map(open).transpose().map_err(StartError::Ledger)?;
                Arc::new(Memory::new(limits.memory, rules, hub.clone(), counters.clone()).with_ledger(ledger))
            }
            EngineConfig::Disk(disk) => {
                Arc::new(Disk::open(&disk, limits.memory, rules, hub.clone(), counters.clone(), lifecycle.clone())?)
            }
            EngineConfig::Redis(redis) => {
                Arc::new(Redis::start(redis, limits.memory, rules, hub.clone(), counters.clone(), &lifecycle)?)
            }
        };
        wait_beyond(whitelist.continue_from(engine.clone(), start));
        listeners.extend(Listener::bind_all(others, &limits.connection)?);
        let policy = Arc::new(Policy::new(whitelist, issuers, in_force, revocations_in_force));
        let TransportLimits { max_connections, max_connections_per_address, .. } = limits.transport;
        let places = Places::new(max_connections, descriptors::for_connections());
        let connection_limiter = ConnectionLimiter::new(places, max_connections_per_address);
        let registry = Registry::new(counters);
        let readers = PolicyReaders { rules: config::read_rules, keys: config::read_keys };
        let policy_sync = PolicySync::new(readers, channels, engine.clone(), policy.clone(), registry.clone());
        let room_table = Rooms::new(rooms.limits.clone());
        let app = Arc::new(AppState {
            limits: limits.transport,
            max_subscriptions: limits.max_subscriptions,
            connection_limits: Arc::new(limits.connection),
            room_connection_limits: Arc::new(rooms.connection_limits(&limits.connection)),
            flock_connection_limits: Arc::new(flock::connection_limits(&limits.connection)),
            passwords: PasswordVerifier::default(),
            cluster_rooms: ClusterRooms::new(&engine, &room_table, &rooms.limits),
            rooms: room_table,
            rooms_config: rooms,
            login: Login::new(login, policy.revocations(), engine.shared_store().identity())?,
            policy,
            policy_sync: Arc::new(policy_sync),
            fetcher,
            engine,
            hub,
            replies: Replies::new(limits.replies),
            idempotency: Idempotency::new(limits.idempotency),
            registry,
            lifecycle,
            refusals: Default::default(),
            control_counters: ControlCounters::default(),
            tickets: Tickets::new(limits.max_tickets),
            geo: geoip.map(GeoDb::open).transpose()?,
            statsd: Statsd::new(statsd),
            metrics,
            dropped_log_lines: counter!("lastmile_log_lines_dropped_total"),
            demo,
        });
        drop(probes);
        let reload_metrics = ReloadMetrics {
            recorder,
            applied: counter!("lastmile_reloads_total"),
            refused: counter!("lastmile_reload_failures_total"),
        };
        let now = Now::read();
        let clock = ClockWatch::new(now.monotonic, now.wall);
        Ok(Self { app, listeners, connection_limiter, drain, clock, reload_metrics })
    }

    /// Each listener with its bound address.
    pub fn listeners(&self) -> impl Iterator<Item = (&ListenerConfig, Address)> {
        self.listeners.iter().map(|listener| (listener.config(), listener.config().address.clone()))
    }

    pub fn reloader(&self) -> Reloader {
        Reloader {
            app: self.app.clone(),
            certificates: self.listeners.iter().filter_map(Listener::certificate).collect(),
            reload_metrics: self.reload_metrics.clone(),
        }
    }

    /// Completes once clients are accepted: the policy in force is known.
    pub fn ready(&self) -> impl Future<Output = ()> + use<> {
        let lifecycle = self.app.lifecycle.clone();
        async move { lifecycle.reached(Phase::Ready).await }
    }

    /// Runs a task of the caller without which the gateway shall not go on.
    pub fn supervise<F: Future<Output = ()>>(&self, task: &'static str, work: F) -> impl Future<Output = ()> + use<F> {
        self.app.lifecycle.clone().supervise(task, work)
    }

    /// Serves until `shutdown` or the failure of a task, then drains.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> DrainReport {
        let Self { app, listeners, connection_limiter, drain, clock, reload_metrics: _ } = self;
        let routes = routes(app.clone());
        let lifecycle = &app.lifecycle;
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let accept = listener.run(app.clone(), connection_limiter.clone(), routes.clone());
            accepting.spawn(lifecycle.clone().supervise("listener", accept));
        }
        let cluster = start_cluster(&app, clock);
        let (stop_statsd, stopped) = tokio::sync::oneshot::channel::<()>();
        let counted = app.clone();
        let statsd = async move { counted.statsd.run(async { drop(stopped.await) }).await };
        let statsd = tokio::spawn(lifecycle.clone().supervise("statsd", statsd));

        tokio::select! {
            () = shutdown => {}
            () = lifecycle.reached(Phase::Draining) => {}
        }

        // Listeners stop accepting, and readiness fails.
        lifecycle.enter(Phase::Draining);
        let deadline = tokio::time::Instant::now() + drain.deadline;
        let closing = close_evenly(app.registry.begin_drain(), drain.window);
        let closed = tokio::time::timeout_at(deadline, closing).await.unwrap_or_else(|_| app.registry.len());
        let has_forwarded_peers = || app.cluster_rooms.as_ref().is_some_and(|rooms| !rooms.forwarded.is_empty());
        let ended = async {
            while !app.registry.is_empty() || has_forwarded_peers() {
                tokio::time::sleep(DRAIN_POLL_INTERVAL).await;
            }
            lifecycle.enter(Phase::Stopped);
            while accepting.join_next().await.is_some() {}
        };
        // The report names the connections that are left at the deadline.
        let _ = tokio::time::timeout_at(deadline, ended).await;
        lifecycle.enter(Phase::Stopped);
        cluster.stop().await;
        drop(stop_statsd);
        let _ = tokio::time::timeout(STATSD_FLUSH_TIMEOUT, statsd).await;
        DrainReport { closed, left: app.registry.len(), failed_task: lifecycle.failed_task() }
    }
}

/// Waits for the second after `refused`, the newest second whose signatures are refused because an earlier process may have
/// accepted them. A client that finds a listener then signs later. A time ahead of the clock is not waited for.
fn wait_beyond(refused: u64) {
    while Now::read().unix() == refused {
        std::thread::sleep(START_POLL_INTERVAL);
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

fn start_cluster(app: &Arc<AppState>, clock: ClockWatch) -> Cluster {
    let member = Member {
        engine: app.engine.clone(),
        policy: app.policy.clone(),
        policy_sync: app.policy_sync.clone(),
        registry: app.registry.clone(),
        lifecycle: app.lifecycle.clone(),
    };
    let rooms = app.cluster_rooms.clone().map(|rooms| {
        let context = RemotePeerContext {
            registry: app.registry.clone(),
            limits: app.room_connection_limits.clone(),
            new_handler: remote_peer_handler(app.clone()),
        };
        (rooms, context)
    });
    Cluster::start(member, app.hub.clone(), app.replies.clone(), rooms, sweep(app.clone(), clock))
}

async fn sweep(app: Arc<AppState>, mut clock: ClockWatch) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    // After a stall one sweep is due, not one per missed second.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Now::read();
        if let Some(seconds) = clock.look(now.monotonic, now.wall) {
            log_clock_step(seconds, now);
        }
        app.registry.sweep(now.unix());
        app.engine.sweep(now);
        app.replies.sweep(now.monotonic);
        app.rooms.sweep(now.monotonic);
        app.policy.issuers().sweep(now.unix());
        app.policy.revocations().sweep(now.unix());
        app.tickets.sweep(now.monotonic);
        log::fold::report();
    }
}

/// After a clock was set back, signatures of the time before may be refused for as long as a signature may be ahead.
fn log_clock_step(seconds: i64, now: Now) {
    let until = now.wall + Duration::from_secs(MAX_SKEW_SECS);
    match seconds < 0 {
        true => tracing::error!(seconds, %until, "wall clock was set back, signed requests may be refused until then"),
        false => tracing::warn!(seconds, "wall clock was set ahead"),
    }
}

impl Reloader {
    /// Replaces the policy and the certificates, all or nothing.
    pub fn reload(&self, policy: PolicyConfig) -> Result<(), StartError> {
        let began = Instant::now();
        let result = self.try_reload(policy);
        match &result {
            Ok(()) => self.reload_metrics.applied.increment(1),
            Err(_) => self.refused(),
        }
        tracing::debug!(took_ms = began.elapsed().as_millis() as u64, "reload");
        result
    }

    /// Reads the GeoIP databases again, apart from the policy because it takes seconds. Returns whether any changed.
    pub async fn reload_geo(&self) -> Result<bool, StartError> {
        let app = self.app.clone();
        let reading = tokio::task::spawn_blocking(move || app.geo.as_ref().map(GeoDb::reload).transpose());
        match reading.await {
            Ok(result) => Ok(result?.unwrap_or(false)),
            // The runtime is ending.
            Err(_) => Ok(false),
        }
    }

    /// Counts a reload that failed before [`Reloader::reload`].
    pub fn refused(&self) {
        self.reload_metrics.refused.increment(1);
    }

    fn try_reload(&self, policy: PolicyConfig) -> Result<(), StartError> {
        let PolicyConfig { publishers, issuers, channels, revocations, login } = policy;
        let whitelist = self.app.policy.whitelist().rebuild(publishers)?;
        let mut issuers = self.app.policy.issuers().rebuild(issuers)?;
        let keys =
            self.certificates.iter().map(|certificate| certificate.read_again()).collect::<Result<Vec<_>, _>>()?;
        ::metrics::with_local_recorder(&*self.reload_metrics.recorder, || {
            issuers.start(self.app.fetcher.as_ref(), &self.app.lifecycle)
        });
        self.app.policy_sync.check_reload(&channels)?;
        // The last step that can fail; it changes nothing if it does.
        let policy = &self.app.policy;
        policy.revocations().keep_for(issuers.longest_lifetime());
        policy.revocations().replace_from_file(revocations, Now::read().unix())?;
        self.app.policy_sync.reload(channels, |rules| policy.replace(whitelist, issuers, rules));
        self.app.login.replace(login, policy.revocations());
        for (certificate, key) in self.certificates.iter().zip(keys) {
            certificate.replace(key);
        }
        self.app.registry.wake_all();
        Ok(())
    }
}

impl StartError {
    /// Whether the cause is the configuration and not the state of the machine.
    pub fn is_misconfigured(&self) -> bool {
        match self {
            Self::Listen(ListenError::Bind { .. }) | Self::Randomness(_) => false,
            Self::Engine(error) | Self::Ledger(error) => error.is_misconfigured(),
            _ => true,
        }
    }
}

/// Checks certificates, key sets, duplicate keys and GeoIP databases by loading them. Returns warnings.
pub fn check(config: &Config) -> Result<Vec<String>, StartError> {
    Whitelist::new(config.policy.publishers.clone(), config.limits.max_replay_nonces)?;
    Issuers::new(config.policy.issuers.clone())?;
    let revocations = Revocations::new(config.limits.max_revocations);
    revocations.keep_for(u64::MAX);
    revocations.replace_from_file(config.policy.revocations.clone(), Now::read().unix())?;
    config.fetch.clone().map(Fetcher::new).transpose()?;
    let geo = config.geoip.clone().map(GeoDb::open).transpose()?;
    config.listeners.iter().try_for_each(|listener| load_tls(listener).map(|_| ()))?;
    Ok(geo.map(|geo| geo.warnings()).unwrap_or_default())
}

/// Why a gateway does not start, or refuses a new policy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Publishers(#[from] DuplicateKey),
    #[error(transparent)]
    Issuers(#[from] IssuerError),
    #[error(transparent)]
    Egress(#[from] FetchError),
    #[error(transparent)]
    Geo(#[from] GeoError),
    #[error("engine.path: {0}")]
    Engine(#[from] DiskError),
    #[error("engine.ledger: {0}")]
    Ledger(DiskError),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("pushed channel rules: {0}")]
    PushedRules(#[from] AmbiguousPattern),
    #[error("revocations_file: {0}")]
    Revocations(#[from] RevocationError),
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}
