//! Presence over nodes: a publisher receives the subscribers of other nodes, and the count of all.

use std::time::{Duration, Instant};

use lastmile::broker::channel::presence::{PRESENCE_LEASE, PresenceUpdate};
use lastmile::broker::{Engine, Now};
use serde_json::{Value, json};
use test_support::http::send;
use test_support::{RedisServer, TempDir, Ws, eventually};

use crate::gateways::{Pair, expect_past_degraded};
use crate::nodes::Node;
use crate::support::{name, rule};

async fn pair(server: &RedisServer) -> Pair {
    Pair::start(&format!("url = \"{}\"", server.url())).await
}

async fn watch(publisher: &mut Ws, channel: &str) -> u64 {
    publisher.send(json!({"type": "watch", "id": "w", "channel": channel})).await;
    publisher.expect("watching").await["connections"].as_u64().unwrap()
}

/// The next event's kind and number.
async fn event(publisher: &mut Ws) -> (Value, Option<u64>) {
    let event = publisher.expect("event").await;
    (event["event"].clone(), event["connections"].as_u64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drained_node_leaves_count_at_once() {
    let server = RedisServer::start(false);
    let pair = pair(&server).await;
    let folder = TempDir::new();
    let third = pair.another(&folder).await;
    let mut publisher = pair.publisher_ws(0).await;
    watch(&mut publisher, "c").await;
    // A channel stays without subscribers.
    publisher.send(json!({"type": "publish", "id": "1", "channel": "c", "data": 1})).await;
    publisher.expect("published").await;
    let mut there = pair.subscriber_of(&third).await;
    there.subscribe("c").await;
    assert_eq!(event(&mut publisher).await, (json!("subscribed"), Some(1)));
    counted(&pair, 1).await;
    let began = Instant::now();
    tokio::join!(third.stop(), there.expect_close(4000, "draining"));
    assert_eq!(event(&mut publisher).await, (json!("unsubscribed"), Some(0)));
    counted(&pair, 0).await;
    assert!(began.elapsed() < PRESENCE_LEASE, "after {:?}", began.elapsed());
}

/// The answer of each node over HTTP.
async fn counts(pair: &Pair) -> [Option<u64>; 2] {
    let mut counts = [None; 2];
    for (node, count) in counts.iter_mut().enumerate() {
        let answer = send(pair.publish_address(node), pair.signed("GET", "/v1/channels/c", None)).await;
        *count = answer.json()["connections"].as_u64();
    }
    counts
}

async fn counted(pair: &Pair, all: u64) {
    eventually("the count of all", async || (counts(pair).await == [Some(all); 2]).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriber_count_spans_nodes() {
    let server = RedisServer::start(false);
    let pair = pair(&server).await;
    let mut subscribers = [pair.subscriber(0).await, pair.subscriber(1).await, pair.subscriber(1).await];
    for ws in &mut subscribers {
        ws.subscribe("c").await;
    }
    counted(&pair, 3).await;
    let [_one, two, _three] = subscribers;
    drop(two);
    counted(&pair, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_node_counts_until_lease_ends() {
    let server = RedisServer::start(false);
    let node = Node::on(&server, &rule());
    node.publish("c", "x").await;
    let soon = Now::read().wall.as_millisecond() + 6000;
    server.command(&format!("HSET test:{{/c}}:seats deadbeef \"5 {soon}\"")).unwrap();
    let count = async || node.engine.describe(&name("c")).await.unwrap().unwrap().subscribers;
    assert_eq!(count().await, 5);
    eventually("the end of the lease", async || (count().await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_events_span_nodes() {
    let server = RedisServer::start(false);
    let pair = pair(&server).await;
    let mut publisher = pair.publisher_ws(0).await;
    assert_eq!(watch(&mut publisher, "c").await, 0);

    let mut there = pair.subscriber(1).await;
    let welcomed = there.subscribe("c").await;
    assert_eq!(welcomed["type"], "subscribed");
    let came = publisher.expect("event").await;
    assert_eq!((&came["event"], &came["connections"]), (&json!("subscribed"), &json!(1)));
    assert_eq!(came["principal"]["subject"], "alice");
    let mut here = pair.subscriber(0).await;
    here.subscribe("c").await;
    let too = publisher.expect("event").await;
    assert_eq!((&too["event"], &too["connections"]), (&json!("subscribed"), &json!(2)));
    assert_ne!(came["node"].as_str().unwrap(), too["node"].as_str().unwrap());

    // A later watcher receives the present subscribers.
    counted(&pair, 2).await;
    let mut other = pair.publisher_ws(1).await;
    assert_eq!(watch(&mut other, "c").await, 2);
    there.send(json!({"type": "unsubscribe", "channel": "c"})).await;
    there.expect("unsubscribed").await;
    for publisher in [&mut publisher, &mut other] {
        assert_eq!(event(publisher).await, (json!("unsubscribed"), Some(1)));
    }

    // One end, though each node ends the subscriptions of its own.
    there.subscribe("c").await;
    for publisher in [&mut publisher, &mut other] {
        assert_eq!(event(publisher).await, (json!("subscribed"), Some(2)));
    }
    let deleted = send(pair.publish_address(1), pair.signed("DELETE", "/v1/channels/c", None)).await;
    assert_eq!(deleted.status, 204);
    for ws in [&mut here, &mut there] {
        ws.expect("unsubscribed").await;
    }
    for publisher in [&mut publisher, &mut other] {
        let ended = publisher.expect("event").await;
        assert_eq!((&ended["event"], &ended["connections"]), (&json!("ended"), &json!(0)));
        assert_eq!(ended["reason"], "channel_closed");
    }

    // A watcher that left receives no more events, and the others still do.
    publisher.send(json!({"type": "unwatch", "channel": "c"})).await;
    publisher.expect("unwatched").await;
    let mut back = pair.subscriber(1).await;
    back.subscribe("c").await;
    assert_eq!(event(&mut other).await, (json!("subscribed"), Some(1)));
    publisher.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_presence_keeps_order() {
    let server = RedisServer::start(false);
    let pair = pair(&server).await;
    let mut publisher = pair.publisher_ws(0).await;
    watch(&mut publisher, "c").await;
    // Pipelined, so the answers come in the order of the questions.
    publisher.send(json!({"type": "watch", "id": "1", "channel": "d"})).await;
    publisher.send(json!({"type": "watch", "id": "2", "channel": "d"})).await;
    publisher.send(json!({"type": "unwatch", "id": "3", "channel": "d"})).await;
    publisher.send(json!({"type": "ping", "id": "4"})).await;
    assert_eq!(publisher.expect("watching").await["id"], "1");
    assert_eq!(publisher.expect_error("already_subscribed").await["id"], "2");
    assert_eq!(publisher.expect("unwatched").await["id"], "3");
    assert_eq!(publisher.expect("pong").await["id"], "4");
    let mut there = pair.subscriber(1).await;
    for _ in 0..100 {
        there.send(json!({"type": "subscribe", "channel": "c"})).await;
        there.send(json!({"type": "unsubscribe", "channel": "c"})).await;
    }
    for _ in 0..100 {
        assert_eq!(event(&mut publisher).await, (json!("subscribed"), Some(1)));
        assert_eq!(event(&mut publisher).await, (json!("unsubscribed"), Some(0)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missed_presence_arrives_as_count() {
    let mut server = RedisServer::start(true);
    let pair = pair(&server).await;
    let mut publisher = pair.publisher_ws(0).await;
    watch(&mut publisher, "c").await;
    let mut there = [pair.subscriber(1).await, pair.subscriber(1).await];
    for (n, ws) in there.iter_mut().enumerate() {
        ws.subscribe("c").await;
        assert_eq!(event(&mut publisher).await, (json!("subscribed"), Some(n as u64 + 1)));
    }
    server.kill();
    let [mut stays, mut goes] = there;
    goes.send(json!({"type": "unsubscribe", "channel": "c"})).await;
    expect_past_degraded(&mut goes, "unsubscribed").await;
    // An unknown count is no reason to refuse.
    assert_eq!(watch(&mut publisher, "d").await, 0);
    server.restart();
    assert_eq!(event(&mut publisher).await, (json!("counted"), Some(1)));
    // From then on each event is sent again.
    stays.send(json!({"type": "unsubscribe", "channel": "c"})).await;
    assert_eq!(event(&mut publisher).await, (json!("unsubscribed"), Some(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_node_is_not_counted() {
    let (_, hub, _) = crate::support::parts(&rule());
    let observers = hub.presence().clone();
    let mut notices = observers.enable_cluster("here");
    let now = Instant::now();
    let connection = crate::support::connection();
    let mut total = None;
    let _observation =
        hub.watch_presence(name("c"), connection.clone(), vec![("there".into(), 3)], now, |sum| total = Some(sum));
    assert_eq!(total, Some(3));
    let notice = |count: u64| -> PresenceUpdate {
        serde_json::from_value(json!({"channel": "c", "what": null, "connections": count, "missed": 0})).unwrap()
    };
    let last = || {
        let event = connection.socket().frames().pop()?;
        Some((event["event"].clone(), event["connections"].as_u64()?))
    };
    observers.on_remote_update("there", &notice(3), now);
    assert_eq!(last(), None, "it is known");
    observers.on_remote_update("elsewhere", &notice(4), now + Duration::from_secs(5));
    assert_eq!(last(), Some((json!("counted"), 7)));
    assert_eq!(observers.refresh(now + PRESENCE_LEASE).local, [name("c")]);
    assert_eq!(last(), Some((json!("counted"), 4)));
    // In the other direction: a watcher receives events as long as it renews.
    hub.add_remote_watcher(&name("d"), "there", now + PRESENCE_LEASE);
    assert_eq!(notices.try_recv().unwrap().0[..], *"there");
    assert_eq!(observers.refresh(now + PRESENCE_LEASE / 2).remote, [name("d")]);
    observers.resend_counts(&name("d"));
    notices.try_recv().expect("the number again");
    assert!(observers.refresh(now + PRESENCE_LEASE * 2).remote.is_empty());
    observers.resend_counts(&name("d"));
    assert!(notices.try_recv().is_err());
}
