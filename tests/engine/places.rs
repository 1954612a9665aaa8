//! The places of a channel over all nodes: never one too many.

use lastmile::broker::engine::Start;
use lastmile::broker::{ChannelLimits, ChannelRule};

use crate::common::eventually;
use crate::nodes::Node;
use crate::server::RedisServer;
use crate::support::{NO_LIMITS, Subscriber, rule};

const RACES: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_race_for_the_last_place_and_exactly_one_gets_it() {
    let server = RedisServer::start(false);
    let limits = ChannelLimits { max_connections: 2, ..NO_LIMITS };
    let nodes = [(); 2].map(|()| Node::on(&server, &ChannelRule { limits: limits.clone(), ..rule() }));
    for race in 0..RACES {
        let channel = format!("c{race}");
        // One place is taken already, on either node.
        let _first = nodes[race % 2].join(&channel, Start::Live);
        let racing = nodes.each_ref().map(|node| {
            let (engine, channel) = (node.engine.clone(), channel.clone());
            tokio::spawn(async move { Subscriber::join(&*engine, &channel, Start::Live) })
        });
        let mut joined = Vec::new();
        for one in racing {
            joined.extend(one.await.unwrap().ok());
        }
        assert_eq!(joined.len(), 1, "race {race}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_is_left_can_be_taken_on_another_node() {
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
