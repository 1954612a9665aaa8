//! A Redis Cluster of three masters: channels are spread over it, and those of living masters continue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lastmile::broker::engine::Start;
use lastmile::broker::engine::node_bus::Topic;
use lastmile::broker::{Engine, Now};
use lastmile::engine::{Redis, RedisKind};
use lastmile::protocol::{ErrorCode, Payload, Refusal};
use parking_lot::Mutex;
use test_support::{RedisServer, eventually};
use tokio::task::JoinHandle;

use crate::nodes::{Node, expect};
use crate::replies::words_go_both_ways;
use crate::subscriber_quota::places_are_counted_together;
use crate::support::{LIMITS, Subscriber, name, publish, redis_config, rule, start_redis};

const SLOTS: usize = 16384;

struct Cluster([RedisServer; 3]);

impl Cluster {
    fn start() -> Self {
        let config = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"];
        // Data written before the answer survives `kill -9`, synced or not.
        let more = ["--appendonly", "yes", "--appendfsync", "no"];
        let masters = [(); 3].map(|()| RedisServer::with(&[&config[..], &more[..]].concat()));
        for (at, master) in masters.iter().enumerate() {
            let slots: Vec<_> = (at * SLOTS / 3..(at + 1) * SLOTS / 3).map(|slot| slot.to_string()).collect();
            let answers = [
                master.command(&format!("CLUSTER SET-CONFIG-EPOCH {}", at + 1)),
                master.command(&format!("CLUSTER ADDSLOTS {}", slots.join(" "))),
                master.command(&format!("CLUSTER MEET 127.0.0.1 {}", masters[0].port)),
            ];
            assert!(answers.iter().all(|answer| answer.as_deref() == Some("+OK\r\n")), "{answers:?}");
        }
        let cluster = Self(masters);
        cluster.wait_until_whole();
        cluster
    }

    /// Returns once all masters see each other. Otherwise one dead master would cost the majority.
    fn wait_until_whole(&self) {
        // Those that took one for dead wait 30 seconds before they believe that it lives.
        let deadline = Instant::now() + Duration::from_secs(90);
        while !self.0.iter().all(|master| {
            let info = master.command("CLUSTER INFO").unwrap_or_default();
            info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
        }) {
            assert!(Instant::now() < deadline, "the cluster does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn node(&self) -> Node {
        let urls: Vec<_> = self.0.iter().map(RedisServer::url).collect();
        let urls: Vec<_> = urls.iter().map(String::as_str).collect();
        Node::new(start_redis(redis_config(&urls, RedisKind::Cluster), &rule(), LIMITS))
    }

    /// Whether each master carries its own channels' publications. Before Redis 7 the first that answers carries all.
    fn is_sharded(&self) -> bool {
        let live = self.0.iter().find_map(|master| master.command("INFO server"));
        !live.unwrap().contains("redis_version:6.")
    }

    /// The master of a channel.
    fn master_of(&self, channel: &str) -> usize {
        let answer = self.0[0].command(&format!("CLUSTER KEYSLOT test:{{/{channel}}}:state")).unwrap();
        let slot: usize = answer[1..].trim().parse().unwrap();
        (0..3).find(|at| slot < (at + 1) * SLOTS / 3).unwrap()
    }
}

/// Looks all the time whether a node is ready, and remembers when it was not.
struct Watch {
    troubles: Arc<Mutex<Vec<Instant>>>,
    watcher: JoinHandle<()>,
}

impl Watch {
    fn new(node: &Node) -> Self {
        let (engine, troubles) = (node.engine.clone(), Arc::new(Mutex::new(Vec::new())));
        let seen = troubles.clone();
        let watcher = tokio::spawn(async move {
            loop {
                if engine.unavailable_reason().is_some() {
                    seen.lock().push(Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self { troubles, watcher }
    }

    /// How long after `start` it was not ready for the first and for the last time.
    fn since(&self, start: Instant) -> Option<(Duration, Duration)> {
        let troubles = self.troubles.lock();
        let mut since = troubles.iter().filter_map(|at| at.checked_duration_since(start));
        since.next().map(|first| (first, since.next_back().unwrap_or(first)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// Results of repeated publishing: the accepted ones, and the time to each refusal.
async fn keep_publishing(engine: Arc<Redis>, channel: String, end: Instant) -> (usize, Vec<(Duration, Refusal)>) {
    let (mut accepted, mut refused) = (0, Vec::new());
    while Instant::now() < end {
        let began = Instant::now();
        match publish(&*engine, &channel, "x").await {
            Ok(_) => accepted += 1,
            Err(refusal) => refused.push((began.elapsed(), refusal)),
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    (accepted, refused)
}

/// Longer than a node is ready without a probe.
const DEAD: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_master_stops_its_channels_only() {
    let mut cluster = Cluster::start();
    let (is_sharded, nodes) = (cluster.is_sharded(), [cluster.node(), cluster.node()]);
    let channels: Vec<_> = (0..18).map(|n| format!("c{n}")).collect();
    let subscribers: Vec<_> = channels
        .iter()
        .flat_map(|channel| nodes.iter().map(move |node| (channel.clone(), node.join(channel, Start::Live))))
        .collect();
    let watches = nodes.each_ref().map(Watch::new);
    for dead in 0..3 {
        let of = |dead: usize| channels.iter().filter(|c| cluster.master_of(c) == dead).cloned().collect::<Vec<_>>();
        let (dying, living) = (of(dead), [of((dead + 1) % 3), of((dead + 2) % 3)].concat());
        assert!(dying.len() > 1 && living.len() > 3, "{dying:?} and {living:?}");
        // Before Redis 7 one connection of a node receives all messages, from the first master and then from the second.
        let is_heard = is_sharded || dead == 2;

        cluster.0[dead].kill();
        let began = Instant::now();
        let publishing = |channels: &[String]| {
            let all = channels.iter().flat_map(|channel| nodes.iter().map(move |node| (node, channel)));
            let all = all.map(|(node, channel)| (node.engine.clone(), channel.clone()));
            all.map(|(engine, channel)| tokio::spawn(keep_publishing(engine, channel, began + DEAD)))
                .collect::<Vec<_>>()
        };
        let (to_dying, to_living) = (publishing(&dying), publishing(&living));
        for published in to_dying {
            let (accepted, refused) = published.await.unwrap();
            assert_eq!(accepted, 0);
            assert!(refused.iter().all(|(_, refusal)| refusal.code == ErrorCode::EngineUnavailable));
            // It may take two seconds.
            let slowest = refused.iter().map(|(took, _)| *took).max().unwrap();
            assert!(slowest < Duration::from_secs(4), "reported after {slowest:?}");
        }
        for published in to_living {
            let (_, refused) = published.await.unwrap();
            // A machine may be too busy to answer in time.
            let at_once = refused.iter().find(|(took, _)| *took < Duration::from_secs(1));
            assert!(!is_heard || at_once.is_none(), "without master {dead}: {at_once:?}");
        }
        for (node, channel) in nodes.iter().flat_map(|node| living.iter().map(move |channel| (node, channel))) {
            eventually("the living to go on", async || publish(&*node.engine, channel, "x").await.ok()).await;
        }
        if is_heard {
            assert_eq!(watches.each_ref().map(|watch| watch.since(began)), [None; 2], "without master {dead}");
        } else {
            let is_ready = || nodes.iter().all(|node| node.engine.unavailable_reason().is_none());
            eventually("a connection to another master", async || is_ready().then_some(())).await;
        }
        let is_living = |channel: &&(String, Subscriber)| living.contains(&channel.0);
        all_have_everything(&nodes[0], subscribers.iter().filter(is_living)).await;
        // A node that begins now has what there is.
        let late = cluster.node();
        late.publish(&living[0], "x").await;

        cluster.0[dead].restart();
        cluster.wait_until_whole();
        for (channel, subscriber) in &subscribers {
            let going_on = async || publish(&*nodes[0].engine, channel, "x").await.ok();
            let position = eventually("all to go on", going_on).await;
            assert_eq!(position.epoch, subscriber.position.epoch);
        }
        all_have_everything(&nodes[0], subscribers.iter()).await;
        if is_heard {
            assert_eq!(watches.each_ref().map(|watch| watch.since(began)), [None; 2], "when master {dead} came back");
        }
    }
    // Nodes reach each other again, although the masters of their names were down.
    let buses = nodes.each_ref().map(|node| node.engine.node_bus().unwrap());
    for (from, to) in [(0, 1), (1, 0)] {
        let mut messages = buses[to].subscribe(Topic::Replies);
        eventually("a message", async || {
            buses[from].send(buses[to].node(), Topic::Replies, b"x").await.ok()?;
            tokio::time::timeout(Duration::from_millis(200), messages.recv()).await.ok().flatten()
        })
        .await;
    }
}

/// No subscriber missed anything or received a gap report.
async fn all_have_everything(node: &Node, subscribers: impl Iterator<Item = &(String, Subscriber)>) {
    for (channel, subscriber) in subscribers {
        let state = eventually("the state", async || node.engine.describe(&name(channel)).await.ok().flatten()).await;
        expect(subscriber, 1..=state.position.offset).await;
        assert!(subscriber.membership.is_active());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connection_is_replaced() {
    let cluster = Cluster::start();
    let node = cluster.node();
    let subscriber = node.join("c", Start::Live);
    node.publish("c", "x").await;
    cluster.0.iter().for_each(|master| master.signal("-STOP"));
    // Without a connection a refusal needs no timeout.
    let append = || node.engine.append(&name("c"), "p", Payload::Text("x"), Now::read());
    assert_eq!(eventually("a refusal at once", async || append().err()).await.code, ErrorCode::EngineUnavailable);
    cluster.0.iter().for_each(|master| master.signal("-CONT"));
    eventually("all to go on", async || publish(&*node.engine, "c", "x").await.ok()).await;
    all_have_everything(&node, [("c".to_owned(), subscriber)].iter()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_messages_cross_cluster() {
    let cluster = Cluster::start();
    words_go_both_ways(&[cluster.node(), cluster.node()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriber_quota_spans_cluster() {
    let cluster = Cluster::start();
    places_are_counted_together(&[cluster.node(), cluster.node()]).await;
}
