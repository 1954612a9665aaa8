//! Several nodes on one Redis: what is published on any of them reaches the subscribers of all, once and in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lastmile::broker::engine::{Created, Start};
use lastmile::broker::{ChannelLimits, ChannelRule, Engine, Now};
use lastmile::engine::{MemoryLimits, Redis};
use lastmile::protocol::{ErrorCode, Position};
use test_support::{RedisServer, TEST_TIMEOUT, eventually};
use tokio::task::JoinHandle;

use crate::support::{LIMITS, NO_LIMITS, Subscriber, name, publish, redis_node, rule};

/// A node with its sweeps.
pub struct Node {
    pub engine: Arc<Redis>,
    sweeper: JoinHandle<()>,
}

impl Node {
    pub fn new(engine: Redis) -> Self {
        let engine = Arc::new(engine);
        let swept = engine.clone();
        let sweeper = tokio::spawn(async move {
            loop {
                swept.sweep(Now::read());
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        Self { engine, sweeper }
    }

    pub fn on(server: &RedisServer, rule: &ChannelRule) -> Self {
        Self::new(redis_node(&server.url(), rule, LIMITS))
    }

    /// Tries again as clients do while the engine is away: it waits two seconds for Redis, which may be little on a
    /// busy machine.
    pub fn join(&self, channel: &str, start: Start) -> Subscriber {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            match Subscriber::join(&*self.engine, channel, start.clone()) {
                Ok(subscriber) => return subscriber,
                Err(refusal) => {
                    let is_temporary = refusal.code == ErrorCode::EngineUnavailable && Instant::now() < deadline;
                    assert!(is_temporary, "{channel}: {refusal:?}");
                }
            }
        }
    }

    pub async fn publish(&self, channel: &str, data: &str) -> Position {
        publish(&*self.engine, channel, data).await.unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.sweeper.abort();
    }
}

/// Waits until the subscriber has exactly these offsets.
pub async fn expect(subscriber: &Subscriber, offsets: std::ops::RangeInclusive<u64>) {
    let expected: Vec<u64> = offsets.collect();
    eventually(&format!("{} publications", expected.len()), async || {
        let seen = subscriber.offsets();
        assert_eq!(seen, expected[..seen.len()]);
        (seen.len() == expected.len()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_cross_nodes_in_order() {
    let server = RedisServer::start(false);
    let nodes = [Node::on(&server, &rule()), Node::on(&server, &rule()), Node::on(&server, &rule())];
    let channels = ["a", "b {x}", "c/ä"];
    let subscribers: Vec<_> = channels
        .iter()
        .flat_map(|channel| nodes.iter().map(move |node| (*channel, node.join(channel, Start::Live))))
        .collect();
    const EACH: u64 = 200;
    let mut publishing = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        for channel in channels {
            let engine = node.engine.clone();
            publishing.push(tokio::spawn(async move {
                for n in 0..EACH {
                    publish(&*engine, channel, &format!("{at}-{n}")).await.unwrap();
                    if getrandom::u32().unwrap().is_multiple_of(8) {
                        tokio::task::yield_now().await;
                    }
                }
            }));
        }
    }
    for one in publishing {
        one.await.unwrap();
    }
    let mut seen: Vec<Vec<String>> = Vec::new();
    for (_, subscriber) in &subscribers {
        expect(subscriber, 1..=EACH * 3).await;
        seen.push(subscriber.data());
    }
    for of_channel in seen.chunks(nodes.len()) {
        assert!(of_channel.windows(2).all(|pair| pair[0] == pair[1]), "all nodes show the same");
        for at in 0..nodes.len() {
            let own: Vec<_> =
                of_channel[0].iter().filter(|data| data.starts_with(&format!("{at}-"))).cloned().collect();
            assert_eq!(own, (0..EACH).map(|n| format!("{at}-{n}")).collect::<Vec<_>>());
        }
    }
    let state = nodes[0].engine.describe(&name("a")).await.unwrap().unwrap();
    assert_eq!(state.position.offset, EACH * 3);
    eventually("the count of all nodes", async || {
        let state = nodes[0].engine.describe(&name("a")).await.unwrap().unwrap();
        (state.subscribers == 3).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn position_resumes_on_another_node() {
    let server = RedisServer::start(false);
    let nodes = [Node::on(&server, &rule()), Node::on(&server, &rule())];
    let done = Arc::new(AtomicBool::new(false));
    let publishing = {
        let (engine, done) = (nodes[0].engine.clone(), done.clone());
        tokio::spawn(async move {
            let mut last = 0;
            while !done.load(Ordering::Relaxed) && last < 900 {
                last = publish(&*engine, "c", "x").await.unwrap().offset;
            }
            last
        })
    };
    let (mut seen, mut position) = (Vec::new(), None::<Position>);
    for round in 0..40 {
        // As a client that drops and comes back, to the other node each time.
        let start = position.clone().map_or(Start::Backlog(1000), Start::Since);
        let subscriber = nodes[round % 2].join("c", start);
        assert!(subscriber.recovered, "{round}");
        tokio::time::sleep(Duration::from_millis(u64::from(getrandom::u32().unwrap() % 20))).await;
        drop(subscriber.membership);
        let offsets: Vec<u64> = subscriber
            .connection
            .socket()
            .frames()
            .iter()
            .filter(|frame| frame["type"] == "message")
            .map(|frame| frame["offset"].as_u64().unwrap())
            .collect();
        seen.extend(&offsets);
        let newest = seen.last().copied().unwrap_or(0);
        position = Some(Position { epoch: subscriber.position.epoch.clone(), offset: newest });
    }
    done.store(true, Ordering::Relaxed);
    let last = publishing.await.unwrap();
    let subscriber = nodes[1].join("c", Start::Since(position.unwrap()));
    expect(&subscriber, seen.last().unwrap() + 1..=last).await;
    assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creation_and_closing_span_nodes() {
    let server = RedisServer::start(false);
    let nodes = [Node::on(&server, &rule()), Node::on(&server, &rule())];
    let c = name("c");
    let limits = ChannelLimits { max_messages: 3, ..NO_LIMITS };
    assert_eq!(nodes[0].engine.create(&c, Some(limits.clone()), Now::read()).await, Ok(Created::New));
    assert_eq!(nodes[1].engine.create(&c, Some(limits.clone()), Now::read()).await, Ok(Created::Again));
    let refused = nodes[1].engine.create(&c, None, Now::read()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::ChannelExists);
    assert_eq!(nodes[1].engine.describe(&c).await.unwrap().unwrap().limits, limits);
    let subscribers = [nodes[0].join("c", Start::Live), nodes[1].join("c", Start::Live)];
    for n in 1..=3 {
        assert_eq!(nodes[n % 2].publish("c", "x").await.offset, n as u64);
    }
    assert_eq!(publish(&*nodes[0].engine, "c", "x").await.unwrap_err().code, ErrorCode::LimitReached);
    for subscriber in &subscribers {
        eventually("the end", async || {
            subscriber.frames().last().filter(|frame| frame["reason"] == "message_limit").map(|_| ())
        })
        .await;
        assert_eq!(subscriber.offsets(), [1, 2, 3]);
    }
    assert_eq!(publish(&*nodes[1].engine, "c", "x").await.unwrap_err().code, ErrorCode::LimitReached);
    // It begins anew on one node, and is listened to and closed on the other.
    assert_eq!(nodes[0].engine.create(&c, None, Now::read()).await, Ok(Created::New));
    let subscriber = nodes[1].join("c", Start::Live);
    nodes[0].publish("c", "x").await;
    expect(&subscriber, 1..=1).await;
    assert_eq!(nodes[0].engine.close(&c).await, Ok(true));
    eventually("the close", async || {
        subscriber.frames().last().filter(|frame| frame["reason"] == "channel_closed").map(|_| ())
    })
    .await;
    assert!(nodes[1].engine.describe(&c).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lifespan_ends_channel_on_all_nodes() {
    let server = RedisServer::start(false);
    let limits = ChannelLimits { lifespan: Duration::from_secs(5), ..NO_LIMITS };
    let nodes = [(); 2].map(|()| Node::on(&server, &ChannelRule { limits: limits.clone(), ..rule() }));
    nodes[0].publish("c", "x").await;
    let subscribers = [nodes[0].join("c", Start::Live), nodes[1].join("c", Start::Live)];
    for subscriber in &subscribers {
        eventually("the end", async || {
            subscriber.frames().last().filter(|frame| frame["reason"] == "lifespan_expired").map(|_| ())
        })
        .await;
    }
    assert_eq!(publish(&*nodes[0].engine, "c", "x").await.unwrap_err().code, ErrorCode::ChannelEnded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unused_channels_leave_nothing() {
    let server = RedisServer::start(false);
    let limits = MemoryLimits { idle: Duration::from_secs(2), ..LIMITS };
    let nodes = [(); 2].map(|()| Node::new(redis_node(&server.url(), &rule(), limits)));
    for n in 0..50 {
        nodes[n % 2].publish(&format!("c{n}"), "x").await;
    }
    let used = nodes[0].join("used", Start::Live);
    drop(nodes[1].join("c1", Start::Live));
    assert_ne!(server.command("DBSIZE").unwrap(), ":0\r\n");
    // A subscriber without publications has reservations, and no channel.
    eventually("all others to go", async || {
        let names = server.command("PUBSUB CHANNELS test:*:live").unwrap();
        let keys = server.command("KEYS *").unwrap();
        let is_clean = !keys.contains(":{/c") && !names.contains(":{/c");
        assert!(!keys.contains(":{/used}:state"), "{keys}");
        (is_clean && keys.contains(":{/used}:wait")).then_some(())
    })
    .await;
    assert_eq!(nodes[1].publish("used", "x").await.offset, 1);
    expect(&used, 1..=1).await;
    // Every key that is left goes by itself.
    for key in server.command("KEYS *").unwrap().lines().filter(|line| line.starts_with("test:")) {
        let left: i64 = server.command(&format!("PTTL {key}")).unwrap()[1..].trim().parse().unwrap();
        assert!(left > 0, "{key} has no expiry");
    }
}
