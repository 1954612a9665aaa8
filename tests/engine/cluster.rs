//! A Redis Cluster of three masters: channels are spread over it, and what stands on the masters that live goes on.

use std::time::{Duration, Instant};

use lastmile::broker::Engine;
use lastmile::broker::engine::Start;
use lastmile::engine::RedisKind;
use lastmile::protocol::Code;

use crate::carried::words_go_both_ways;
use crate::common::eventually;
use crate::nodes::{Node, expect};
use crate::places::places_are_counted_together;
use crate::server::RedisServer;
use crate::support::{LIMITS, publish, redis_config, rule, start_redis};

const SLOTS: usize = 16384;

struct Cluster([RedisServer; 3]);

impl Cluster {
    fn start() -> Self {
        let config = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"];
        let more = ["--cluster-node-timeout", "1000", "--appendonly", "yes", "--appendfsync", "always"];
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
        let deadline = Instant::now() + Duration::from_secs(30);
        while !cluster.0.iter().all(|master| {
            let info = master.command("CLUSTER INFO").unwrap_or_default();
            info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
        }) {
            assert!(Instant::now() < deadline, "the cluster does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        cluster
    }

    fn node(&self) -> Node {
        let urls: Vec<_> = self.0.iter().map(RedisServer::url).collect();
        let urls: Vec<_> = urls.iter().map(String::as_str).collect();
        Node::new(start_redis(redis_config(&urls, RedisKind::Cluster), &rule(), LIMITS))
    }

    /// Which master has a channel.
    fn master_of(&self, channel: &str) -> usize {
        let answer = self.0[0].command(&format!("CLUSTER KEYSLOT test:{{/{channel}}}:state")).unwrap();
        let slot: usize = answer[1..].trim().parse().unwrap();
        (0..3).find(|at| slot < (at + 1) * SLOTS / 3).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_are_spread_over_a_cluster_and_one_dead_master_stops_only_its_own() {
    let mut cluster = Cluster::start();
    let nodes = [cluster.node(), cluster.node()];
    let channels: Vec<_> = (0..18).map(|n| format!("c{n}")).collect();
    let of = |master: usize| channels.iter().filter(|c| cluster.master_of(c) == master).cloned().collect::<Vec<_>>();
    // The first, which before Redis 7 has all subscriptions.
    let (dying, living) = (of(0), [of(1), of(2)].concat());
    assert!(dying.len() > 1 && living.len() > 3, "{dying:?} and {living:?}");
    let subscribers: Vec<_> = channels
        .iter()
        .flat_map(|channel| nodes.iter().map(move |node| (channel.clone(), node.join(channel, Start::Live))))
        .collect();
    for round in 0..10 {
        for channel in &channels {
            nodes[round % 2].publish(channel, "x").await;
        }
    }
    for (_, subscriber) in &subscribers {
        expect(subscriber, 1..=10).await;
    }

    cluster.0[0].kill();
    let began = Instant::now();
    let refused = dying.iter().map(|channel| publish(&*nodes[0].engine, channel, "x"));
    for refused in futures_util::future::join_all(refused).await {
        assert_eq!(refused.unwrap_err().code, Code::EngineUnavailable);
    }
    assert!(began.elapsed() < Duration::from_secs(3), "told after {:?}", began.elapsed());
    for channel in &living {
        eventually("those of the living to go on", async || publish(&*nodes[1].engine, channel, "x").await.ok()).await;
    }
    for (channel, subscriber) in subscribers.iter().filter(|(channel, _)| living.contains(channel)) {
        let last = nodes[0].engine.describe(&crate::support::name(channel)).await.unwrap().unwrap().position.offset;
        expect(subscriber, 1..=last).await;
    }
    eventually("readiness", async || nodes.iter().all(|node| node.engine.trouble().is_none()).then_some(())).await;
    // A node that begins now has what there is.
    let late = cluster.node();
    late.publish(&living[0], "x").await;

    cluster.0[0].restart();
    for (channel, subscriber) in &subscribers {
        let position = eventually("all to go on", async || publish(&*nodes[0].engine, channel, "x").await.ok()).await;
        assert_eq!(position.epoch, subscriber.position.epoch);
    }
    for (channel, subscriber) in &subscribers {
        let last = nodes[0].engine.describe(&crate::support::name(channel)).await.unwrap().unwrap().position.offset;
        expect(subscriber, 1..=last).await;
        assert!(subscriber.membership.is_active());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_go_from_node_to_node_over_a_cluster() {
    let cluster = Cluster::start();
    words_go_both_ways(&[cluster.node(), cluster.node()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_under_names_are_counted_over_a_cluster() {
    let cluster = Cluster::start();
    places_are_counted_together(&[cluster.node(), cluster.node()]).await;
}
