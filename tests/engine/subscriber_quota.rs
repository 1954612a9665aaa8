//! The places of a channel over all nodes: never one too many.

use std::time::Duration;

use lastmile::broker::engine::Start;
use lastmile::broker::{ChannelLimits, ChannelRule, Engine};
use lastmile::protocol::{ErrorCode, Refusal};
use test_support::{RedisServer, eventually};

use crate::nodes::Node;
use crate::support::{NO_LIMITS, Subscriber, holder, name, rule};

const RACES: usize = 10_000;
/// Races at once, each for a channel of its own.
const TRACKS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_race_for_last_slot() {
    let server = RedisServer::start(false);
    let limits = ChannelLimits { max_connections: 2, ..NO_LIMITS };
    let nodes = [(); 2].map(|()| Node::on(&server, &ChannelRule { limits: limits.clone(), ..rule() }));
    let tracks = (0..TRACKS).map(|track| {
        let nodes = &nodes;
        async move {
            for race in (track..RACES).step_by(TRACKS) {
                let channel = format!("c{race}");
                // One place is taken already, on either node.
                let _first = attached(&nodes[race % 2], &channel).await.unwrap();
                let (one, two) = tokio::join!(attached(&nodes[0], &channel), attached(&nodes[1], &channel));
                let refused = [one.err(), two.err()];
                assert!(matches!(refused, [Some(_), None] | [None, Some(_)]), "race {race}: {refused:?}");
            }
        }
    });
    futures_util::future::join_all(tracks).await;
}

/// A subscriber, without holding up other races. It comes again if Redis did not answer in time.
async fn attached(node: &Node, channel: &str) -> Result<Subscriber, Refusal> {
    loop {
        let joining = async {
            let _place = node.engine.prepare_subscribe(&name(channel), holder()).unwrap().await?;
            Subscriber::attached(&*node.engine, channel, Start::Live)
        };
        match joining.await {
            Err(refusal) if refusal.code == ErrorCode::EngineUnavailable => {}
            done => return done,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freed_slot_is_usable_on_another_node() {
    let server = RedisServer::start(false);
    let limits = ChannelLimits { max_connections: 40, ..NO_LIMITS };
    let nodes = [(); 2].map(|()| Node::on(&server, &ChannelRule { limits: limits.clone(), ..rule() }));
    let mut subscribers: Vec<_> = (0..40).map(|_| nodes[0].join("c", Start::Live)).collect();
    assert!(Subscriber::join(&*nodes[1].engine, "c", Start::Live).is_err());
    subscribers.truncate(10);
    let mut others = Vec::new();
    while others.len() < 30 {
        others.push(
            eventually("a free place", async || Subscriber::join(&*nodes[1].engine, "c", Start::Live).ok()).await,
        );
    }
    assert!(nodes.iter().all(|node| Subscriber::join(&*node.engine, "c", Start::Live).is_err()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriber_quota_frees_slots_of_dead_node() {
    let server = RedisServer::start(false);
    let nodes = [Node::on(&server, &rule()), Node::on(&server, &rule())];
    places_are_counted_together(&nodes).await;
    // A remaining entry expires.
    for name in ["n", "n0"] {
        let lives = server.command(&format!("PTTL test:once:{name}")).unwrap();
        let lives: i64 = lives.trim().trim_start_matches(':').parse().unwrap();
        assert!((1..=60_000).contains(&lives), "{name} lives {lives} ms");
    }
}

pub async fn places_are_counted_together(nodes: &[Node; 2]) {
    const MINUTE: Duration = Duration::from_secs(60);
    let [one, two] = nodes.each_ref().map(|node| node.engine.shared_store());
    let present = async || {
        for node in [one, two] {
            node.heartbeat(b"{}").await.unwrap();
        }
    };
    for race in 0..500 {
        // A node without a heartbeat for ten seconds is dead.
        present().await;
        let name = format!("n{race}");
        // One is taken already, on either node.
        let (first, last) = if race % 2 == 0 { (one, two) } else { (two, one) };
        assert_eq!(first.reserve(&name, 0, 1, 2, MINUTE).await, Ok(1));
        let raced = tokio::join!(first.reserve(&name, 1, 2, 2, MINUTE), last.reserve(&name, 0, 1, 2, MINUTE));
        assert!(matches!(raced, (Ok(2), Ok(0)) | (Ok(1), Ok(1))), "{raced:?}");
    }
    present().await;
    assert_eq!(one.reserve("n", 0, 3, 3, MINUTE).await, Ok(3));
    assert_eq!(two.reserve("n", 0, 1, 3, MINUTE).await, Ok(0));
    // Released slots are free, and held ones stay even above the limit.
    assert_eq!(one.reserve("n", 2, 2, 3, MINUTE).await, Ok(2));
    assert_eq!(two.reserve("n", 0, 2, 3, MINUTE).await, Ok(1));
    assert_eq!(two.reserve("n", 2, 3, 3, MINUTE).await, Ok(2));
    one.deregister().await.unwrap();
    assert_eq!(two.reserve("n", 2, 3, 3, MINUTE).await, Ok(3));
    // It was still alive.
    one.heartbeat(b"{}").await.unwrap();
    assert_eq!(one.reserve("n", 2, 2, 3, MINUTE).await, Ok(2));
    assert_eq!(two.reserve("n", 3, 4, 3, MINUTE).await, Ok(3));
}
