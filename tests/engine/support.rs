//! Engines to try, and subscribers whose sockets remember what they were sent.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;

use lastmile::broker::engine::{Appended, ChannelState, Joined, Start, Stored, SubscriberSlot, stored};
use lastmile::broker::*;
use lastmile::engine::disk::Fsync;
use lastmile::engine::{
    ClusterSecret, Disk, DiskConfig, DiskError, Memory, MemoryLimits, Redis, RedisConfig, RedisKind, Unauthenticated,
    WaitingLimits,
};
use lastmile::protocol::{ChannelName, Form, Pattern, Payload, Position, Refusal};
use test_support::{RedisServer, TempDir};

/// The engine of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Memory,
    Disk,
    Redis,
}

/// An engine with one rule for all channels.
pub struct TestEnv {
    pub engine: Option<Arc<dyn Engine>>,
    pub rule: ChannelRule,
    pub limits: MemoryLimits,
    pub folder: Arc<TempDir>,
    pub server: Option<RedisServer>,
}

pub const NO_LIMITS: ChannelLimits = ChannelLimits {
    max_connections: 0,
    max_messages: 0,
    max_data_bytes: 0,
    max_message_bytes: 0,
    lifespan: Duration::ZERO,
};

/// Keeps 1000 publications of each channel, with no other limit.
pub fn rule() -> ChannelRule {
    ChannelRule {
        pattern: Pattern::new("*"),
        claim_pattern: None,
        deny: Vec::new(),
        subscribers: Audience::Anyone,
        limits: NO_LIMITS,
        slow_consumer: SlowConsumer::Disconnect,
        backlog_messages: 1000,
        backlog_age: Duration::ZERO,
        backlog_bytes: 0,
        replies: false,
        compress: true,
    }
}

pub const LIMITS: MemoryLimits = MemoryLimits {
    max_channels: 20_000,
    waiting: WaitingLimits { max_names: 20_000, max_names_per_holder: 20_000 },
    idle: Duration::from_secs(60),
    max_backlog_bytes: 64 << 20,
    max_store_entries: 1000,
};

impl TestEnv {
    pub fn new(kind: Kind, rule: ChannelRule) -> Self {
        Self::with(kind, rule, LIMITS)
    }

    pub fn with(kind: Kind, rule: ChannelRule, limits: MemoryLimits) -> Self {
        let mut env = Self { engine: None, rule, limits, folder: Arc::new(TempDir::new()), server: None };
        let (rules, hub, counters) = parts(&env.rule);
        env.engine = Some(match kind {
            Kind::Memory => Arc::new(Memory::new(limits, rules, hub, counters)),
            Kind::Disk => Arc::new(env.open().unwrap()),
            Kind::Redis => {
                let server = env.server.insert(RedisServer::start(false)).url();
                Arc::new(redis_node(&server, &env.rule, limits))
            }
        });
        env
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub fn open(&self) -> Result<Disk, DiskError> {
        open_at(&self.path(), self)
    }

    /// The durable engine ends and begins again.
    pub fn restart(&mut self) {
        drop(self.engine.take());
        self.engine = Some(Arc::new(self.open().unwrap()));
    }

    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_deref().unwrap()
    }

    pub async fn try_publish(&self, channel: &str, data: &str) -> Result<Position, Refusal> {
        publish(self.engine(), channel, data).await
    }

    pub async fn publish(&self, channel: &str, data: &str) -> Position {
        self.try_publish(channel, data).await.unwrap()
    }

    pub async fn describe(&self, channel: &str) -> Option<ChannelState> {
        self.engine().describe(&name(channel)).await.unwrap()
    }

    pub fn join(&self, channel: &str, start: Start) -> Subscriber {
        Subscriber::join(self.engine(), channel, start).unwrap()
    }

    /// The offsets of a backlog, and whether nothing is missing in it.
    pub fn backlog(&self, channel: &str, start: Start) -> (Vec<u64>, bool) {
        let subscriber = self.join(channel, start);
        (subscriber.offsets(), subscriber.recovered)
    }
}

/// The parts of an engine, with one rule for all channels.
pub fn parts(rule: &ChannelRule) -> (Arc<ArcSwap<ChannelRules>>, Hub, Arc<Counters>) {
    let counters = Arc::new(Counters::default());
    let rules = ChannelRules { rules: Vec::new(), default: rule.clone(), issuers: Default::default() };
    (Arc::new(ArcSwap::from_pointee(rules)), Hub::new(2, counters.clone(), lastmile::gateway::spawn_delivery), counters)
}

/// A node on a Redis that runs. Returns once the node carries publications.
pub fn redis_node(url: &str, rule: &ChannelRule, limits: MemoryLimits) -> Redis {
    start_redis(redis_config(&[url], RedisKind::Single), rule, limits)
}

pub fn redis_config(urls: &[&str], kind: RedisKind) -> RedisConfig {
    let urls = urls.iter().map(|url| url.to_string()).collect();
    RedisConfig {
        urls,
        kind,
        prefix: "test".to_owned(),
        authorities: None,
        password: None,
        cluster_key: vec![ClusterSecret::new(&[7; 32])],
        unauthenticated: Unauthenticated::Refuse,
    }
}

pub fn start_redis(config: RedisConfig, rule: &ChannelRule, limits: MemoryLimits) -> Redis {
    let (rules, hub, counters) = parts(rule);
    let engine = Redis::start(config, limits, rules, hub, counters, &Arc::default()).unwrap();
    let deadline = Instant::now() + test_support::TEST_TIMEOUT;
    while engine.unavailable_reason().is_some() {
        assert!(Instant::now() < deadline, "the node does not come up");
        std::thread::sleep(Duration::from_millis(5));
    }
    engine
}

pub fn open_at(path: &Path, env: &TestEnv) -> Result<Disk, DiskError> {
    let config = DiskConfig { path: path.to_owned(), fsync: Fsync::Always, max_bytes: 1 << 30 };
    let (rules, hub, counters) = parts(&env.rule);
    Disk::open(&config, env.limits, rules, hub, counters, Arc::default())
}

pub fn name(channel: &str) -> ChannelName {
    ChannelName::parse(channel).unwrap()
}

pub async fn publish(engine: &dyn Engine, channel: &str, data: &str) -> Result<Position, Refusal> {
    place(engine.append(&name(channel), "p", Payload::Text(data), Now::read())?).await
}

/// Waits for the place of a publication, as a publisher's connection does.
pub async fn place(appended: Appended) -> Result<Position, Refusal> {
    let Stored { position, backpressure: congestion } = match appended {
        Appended::Done(accepted) => Stored { position: accepted.position, backpressure: accepted.deliveries.run() },
        Appended::Pending(answer) => stored(answer).await?,
    };
    if let Some(congestion) = congestion {
        congestion.wait().await;
    }
    Ok(position)
}

/// Takes everything.
#[derive(Default)]
pub struct Sink(Mutex<Vec<u8>>);

impl Sink {
    /// Every frame, whole.
    pub fn frames(&self) -> Vec<Value> {
        let taken = self.0.lock().clone();
        let (mut rest, mut frames) = (&taken[..], Vec::new());
        while let [first, length, body @ ..] = rest {
            let (length, body) = match (*length, body) {
                (126, [a, b, body @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), body),
                (127, body) => (u64::from_be_bytes(body[..8].try_into().unwrap()) as usize, &body[8..]),
                (length, body) => (usize::from(length), body),
            };
            if *first == 0x81 {
                frames.push(serde_json::from_slice(&body[..length]).unwrap());
            }
            rest = &body[length..];
        }
        frames
    }
}

impl Socket for Sink {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn try_write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write(&buffers.iter().flat_map(|buffer| buffer.to_vec()).collect::<Vec<_>>())
    }
}

pub fn connection() -> Arc<Connection<Sink>> {
    let limits = ConnectionLimits {
        outbox_bytes: 1 << 20,
        outbox_frames: 1000,
        stall: Duration::from_secs(5),
        close: Duration::from_secs(5),
        ping: Duration::from_secs(25),
        pong: Duration::from_secs(10),
        close_silent_without_ping: None,
    };
    Arc::new(Connection::new(1, Arc::new(limits), Sink::default()))
}

/// All subscribers have one address.
pub fn holder() -> Holder {
    Holder::of_address(None)
}

pub struct Subscriber {
    pub connection: Arc<Connection<Sink>>,
    pub membership: Membership,
    /// The position of its `subscribed`.
    pub position: Position,
    pub recovered: bool,
}

impl Subscriber {
    /// Waits until it can be joined, and joins.
    pub fn join(engine: &dyn Engine, channel: &str, start: Start) -> Result<Self, Refusal> {
        let _place = match engine.prepare_subscribe(&name(channel), holder()) {
            Some(attached) => tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(attached))?,
            None => SubscriberSlot::default(),
        };
        Self::attached(engine, channel, start)
    }

    pub fn attached(engine: &dyn Engine, channel: &str, start: Start) -> Result<Self, Refusal> {
        let connection = connection();
        let (form, holder) = (Form::Native, holder());
        let newcomer = JoinRequest { connection: connection.clone(), form, tag: 1, principal: None, holder };
        let mut result = None;
        let mut announce = |joined: Joined<'_>| {
            result = Some((joined.position.clone(), joined.recovered));
            for publication in joined.history {
                connection.send(publication.frame(Form::Native));
            }
        };
        let membership = engine.subscribe(&name(channel), newcomer, start, Now::read(), &mut announce)?;
        let (position, recovered) = result.unwrap();
        Ok(Self { connection, membership, position, recovered })
    }

    pub fn frames(&self) -> Vec<Value> {
        self.connection.socket().frames()
    }

    fn values(&self, key: &str) -> Vec<Value> {
        let frames = self.frames().into_iter();
        frames.filter(|frame| frame["type"] == "message").map(|frame| frame[key].clone()).collect()
    }

    pub fn offsets(&self) -> Vec<u64> {
        self.values("offset").iter().map(|offset| offset.as_u64().unwrap()).collect()
    }

    pub fn data(&self) -> Vec<String> {
        self.values("data").iter().map(|data| data.as_str().unwrap().to_owned()).collect()
    }
}
