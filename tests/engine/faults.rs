//! A Redis that is killed, hangs, forgets, or whose connections are cut, under load: acknowledged publications are
//! delivered once and in order, or subscribers are sent a gap report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lastmile::broker::engine::Start;
use lastmile::broker::{Engine, Now};
use lastmile::protocol::{ErrorCode, Payload, Position};
use test_support::{RedisServer, eventually};
use tokio::task::JoinHandle;

use crate::nodes::{Node, expect};
use crate::support::{Subscriber, name, publish, rule};

/// A refusal takes up to three seconds; the rest is for a busy machine.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(20);

/// Recovery after the return of Redis takes up to three seconds; the rest is for a busy machine.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// Acknowledged publications before a test may end.
const MIN_ACKNOWLEDGED: usize = 100;

/// Publishers of two nodes that retry after any error, and a subscriber of each node.
struct Load {
    nodes: [Node; 2],
    subscribers: [Subscriber; 2],
    publishers: Vec<JoinHandle<BTreeMap<u64, (Position, String)>>>,
    acknowledged: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Load {
    fn on(server: &RedisServer) -> Self {
        let rule = lastmile::broker::ChannelRule { backlog_messages: 100_000, ..rule() };
        let nodes = [(); 2].map(|()| Node::on(server, &rule));
        let subscribers = nodes.each_ref().map(|node| node.join("c", Start::Live));
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let publishers = (0..4)
            .map(|who| {
                let (engine, stop, count) = (nodes[who % 2].engine.clone(), stop.clone(), count.clone());
                tokio::spawn(async move {
                    let mut acknowledged = BTreeMap::new();
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let (data, began) = (format!("{who}-{n}"), Instant::now());
                        match publish(&*engine, "c", &data).await {
                            Ok(position) => {
                                let before = acknowledged.insert(position.offset, (position, data));
                                assert!(before.is_none());
                                count.fetch_add(1, Ordering::Relaxed);
                                tokio::time::sleep(Duration::from_millis(2)).await;
                            }
                            Err(refusal) => {
                                assert_eq!(refusal.code, ErrorCode::EngineUnavailable);
                                assert!(began.elapsed() < REFUSAL_TIMEOUT, "reported after {:?}", began.elapsed());
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        Self { nodes, subscribers, publishers, acknowledged: count, stop }
    }

    /// Waits until publications of both nodes come to both subscribers.
    async fn flows(&self) {
        for node in &self.nodes {
            let publication = eventually("an acknowledgement", async || publish(&*node.engine, "c", "flow").await.ok());
            let position = publication.await;
            for subscriber in &self.subscribers {
                eventually("its delivery", async || subscriber.offsets().contains(&position.offset).then_some(()))
                    .await;
            }
        }
    }

    /// Everything that was acknowledged came to both subscribers, each once, in order, in one epoch.
    async fn check(self) {
        eventually("enough", async || (self.acknowledged.load(Ordering::Relaxed) > MIN_ACKNOWLEDGED).then_some(()))
            .await;
        self.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = BTreeMap::new();
        for publisher in self.publishers {
            for (offset, (position, data)) in publisher.await.unwrap() {
                assert_eq!(position.epoch, self.subscribers[0].position.epoch, "the epoch stays");
                assert!(acknowledged.insert(offset, data).is_none(), "offset {offset} was given twice");
            }
        }
        let last = self.nodes[0].engine.describe(&name("c")).await.unwrap().unwrap().position.offset;
        for subscriber in &self.subscribers {
            expect(subscriber, 1..=last).await;
            let data = subscriber.data();
            for (offset, expected) in &acknowledged {
                assert_eq!(&data[*offset as usize - 1], expected, "offset {offset}");
            }
            assert!(subscriber.membership.is_active());
        }
    }
}

async fn some_time() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_kill_with_aof_loses_nothing() {
    let mut server = RedisServer::start(true);
    let load = Load::on(&server);
    for _ in 0..4 {
        some_time().await;
        server.kill();
        eventually("both nodes to know", async || {
            load.nodes.iter().all(|node| node.engine.unavailable_reason() == Some("engine-unavailable")).then_some(())
        })
        .await;
        some_time().await;
        server.restart();
        let back = Instant::now();
        load.flows().await;
        assert!(back.elapsed() < RECOVERY_TIMEOUT, "it took {:?}", back.elapsed());
    }
    eventually("readiness", async || {
        load.nodes.iter().all(|node| node.engine.unavailable_reason().is_none()).then_some(())
    })
    .await;
    load.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_connections_lose_nothing() {
    let server = RedisServer::start(false);
    let load = Load::on(&server);
    for round in 0..8 {
        tokio::time::sleep(Duration::from_millis(u64::from(getrandom::u32().unwrap() % 300))).await;
        // Both nodes, by turns publishing and subscribed ones.
        server.command(if round % 2 == 0 { "CLIENT KILL TYPE pubsub" } else { "CLIENT KILL SKIPME yes" }).unwrap();
        load.flows().await;
    }
    load.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_redis_is_reported_in_time() {
    let server = RedisServer::start(false);
    let load = Load::on(&server);
    some_time().await;
    server.signal("-STOP");
    let began = Instant::now();
    eventually("both nodes to know", async || {
        load.nodes.iter().all(|node| node.engine.unavailable_reason().is_some()).then_some(())
    })
    .await;
    assert!(began.elapsed() < REFUSAL_TIMEOUT, "known after {:?}", began.elapsed());
    // Refused at once from now on, without a question, and a subscriber after a little patience.
    let ask = || load.nodes[0].engine.append(&name("c"), "p", Payload::Text("x"), Now::read());
    let refused = eventually("a refusal at once", async || ask().err()).await;
    assert_eq!(refused.code, ErrorCode::EngineUnavailable);
    let began = Instant::now();
    let refused = Subscriber::join(&*load.nodes[0].engine, "c", Start::Live).err().unwrap();
    assert_eq!(refused.code, ErrorCode::EngineUnavailable);
    assert!(began.elapsed() < REFUSAL_TIMEOUT, "reported after {:?}", began.elapsed());
    server.signal("-CONT");
    let back = Instant::now();
    load.flows().await;
    assert!(back.elapsed() < RECOVERY_TIMEOUT, "it took {:?}", back.elapsed());
    load.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_redis_starts_new_epoch() {
    let mut server = RedisServer::start(false);
    let nodes = [(); 2].map(|()| Node::on(&server, &rule()));
    for _ in 0..5 {
        nodes[0].publish("c", "x").await;
    }
    let subscribers = nodes.each_ref().map(|node| node.join("c", Start::Backlog(5)));
    server.kill();
    server.restart();
    told_and_begun_anew(&nodes, &subscribers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_tail_starts_new_epoch() {
    let server = RedisServer::start(true);
    let nodes = [(); 2].map(|()| Node::on(&server, &rule()));
    for _ in 0..5 {
        nodes[0].publish("c", "x").await;
    }
    let subscribers = nodes.each_ref().map(|node| node.join("c", Start::Backlog(5)));
    server.command("HSET test:{/c}:state offset 3").unwrap();
    server.command("XDEL test:{/c}:log 4-0 5-0").unwrap();
    server.command("CLIENT KILL SKIPME yes").unwrap();
    told_and_begun_anew(&nodes, &subscribers).await;
}

async fn told_and_begun_anew(nodes: &[Node; 2], subscribers: &[Subscriber; 2]) {
    for subscriber in subscribers {
        eventually("the word", async || {
            subscriber.frames().last().filter(|frame| frame["reason"] == "engine_unavailable").map(|_| ())
        })
        .await;
        assert!(!subscriber.membership.is_active());
        assert_eq!(subscriber.offsets(), [1, 2, 3, 4, 5]);
    }
    let old = &subscribers[0].position;
    let first = eventually("an acknowledgement", async || publish(&*nodes[1].engine, "c", "y").await.ok()).await;
    assert!(first.epoch != old.epoch && first.offset == 1, "{first:?} after {old:?}");
    let back = eventually("a place", async || Subscriber::join(&*nodes[0].engine, "c", Start::Since(old.clone())).ok());
    let back = back.await;
    assert!(!back.recovered && back.position.epoch == first.epoch);
    expect(&back, 1..=1).await;
}
