//! Each limit holds at its value and not before, and released slots are available again.

use serde_json::json;
use test_support::eventually;

use crate::node::{Node, Setup};
use crate::raw::{ask, connect, read_reply, send};
use crate::ws::{End, PING, RawWs, command, frame, upgrade};

/// Opens a subscriber's WebSocket, or returns the status of the refusal.
async fn open(node: &Node) -> Result<RawWs, u16> {
    RawWs::open(node.public(), "/v1/subscribe", "").await.map_err(|reply| reply.status)
}

/// Opens one as soon as there is room again.
async fn reopen(node: &Node) -> RawWs {
    eventually("room for one more", async || open(node).await.ok()).await
}

#[tokio::test]
async fn connections_of_a_listener() {
    let node = Node::start(Setup { public: "max_connections = 3", ..Setup::default() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(open(&node).await.expect("as many as allowed"));
    }
    for _ in 0..3 {
        let mut refused = connect(node.public()).await;
        send(&mut refused, &upgrade("/v1/subscribe", "gateway", "")).await;
        let reply = read_reply(&mut refused).await.expect("a refusal");
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")));
    }
    // The same verdict for a request that is no upgrade.
    let plain = ask(node.public(), b"GET /problems/malformed HTTP/1.1\r\nhost: gateway\r\n\r\n").await;
    assert_eq!(plain.expect("a refusal").status, 503);
    node.publish("open.a", "1").await;
    held.pop();
    let mut again = reopen(&node).await;
    again.hello().await;
    assert_eq!(open(&node).await.err(), Some(503));
    assert!(node.metric("lastmile_sockets_refused_total").await >= 4.0);
}

#[tokio::test]
async fn connections_in_total() {
    // One of them is for the requests of the test itself.
    let node = Node::start(Setup { limits: "max_connections = 4", ..Setup::default() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(open(&node).await.expect("as many as allowed"));
    }
    node.publish("open.a", "1").await;
    held.push(reopen(&node).await);
    assert_eq!(open(&node).await.err(), Some(503));
    held.pop();
    reopen(&node).await.hello().await;
}

#[tokio::test]
async fn silent_connections_count_by_address() {
    let node = Node::start(Setup { limits: "max_connections_per_address = 2", ..Setup::default() }).await;
    let from = async |source: &str| {
        let mut stream = crate::raw::connect_from(source, node.public()).await;
        send(&mut stream, &upgrade("/v1/subscribe", "gateway", "")).await;
        let status = read_reply(&mut stream).await.map(|reply| reply.status);
        (stream, status)
    };
    let silent = crate::raw::connect_from("127.0.0.7", node.public()).await;
    let (_second, status) = from("127.0.0.7").await;
    assert_eq!(status, Some(101));
    assert_eq!(from("127.0.0.7").await.1, Some(503));
    assert_eq!(from("127.0.0.8").await.1, Some(101), "another address");
    drop(silent);
    eventually("room again", async || (from("127.0.0.7").await.1 == Some(101)).then_some(())).await;
}

#[tokio::test]
async fn channels_of_a_connection() {
    let node = Node::start(Setup { limits: "max_subscriptions = 3", ..Setup::default() }).await;
    let mut ws = node.connect().await;
    ws.hello().await;
    for channel in ["open.1", "open.2", "open.3"] {
        ws.subscribe(channel).await;
    }
    let subscribe = command(json!({"type": "subscribe", "id": "4", "channel": "open.4"}));
    ws.send(&subscribe).await;
    let error = ws.json().await;
    assert_eq!((&error["code"], &error["id"]), (&json!("limit_reached"), &json!("4")));
    ws.send(&command(json!({"type": "unsubscribe", "channel": "open.1"}))).await;
    assert_eq!(ws.json().await["type"], "unsubscribed");
    ws.send(&subscribe).await;
    assert_eq!(ws.json().await["type"], "subscribed");
}

#[tokio::test]
async fn subscribers_of_a_channel() {
    let more = "[[channels]]\nmatch = \"small\"\nsubscribers = \"anyone\"\nmax_connections = 2";
    let node = Node::start(Setup { more, ..Setup::default() }).await;
    let mut held = [node.subscriber("small").await, node.subscriber("small").await];
    let mut third = node.connect().await;
    third.hello().await;
    let subscribe = command(json!({"type": "subscribe", "channel": "small"}));
    third.send(&subscribe).await;
    assert_eq!(third.json().await["code"], "connection_limit");
    held[0].send(&command(json!({"type": "unsubscribe", "channel": "small"}))).await;
    assert_eq!(held[0].json().await["type"], "unsubscribed");
    third.send(&subscribe).await;
    assert_eq!(third.json().await["type"], "subscribed");
}

#[tokio::test]
async fn frames_of_a_connection() {
    let node = Node::start(Setup { limits: "max_commands_per_second = 2", ..Setup::default() }).await;
    let mut ws = node.connect().await;
    // The burst is ten times the rate, and hello is one of them.
    ws.hello().await;
    for _ in 0..19 {
        ws.is_alive().await;
    }
    ws.send(&frame(PING, b"").repeat(20)).await;
    assert_eq!(ws.end().await, End::Close(4004, "rate_limited".into()));
    // It was this connection's matter alone.
    node.connect().await.hello().await;
}

#[tokio::test]
async fn channels_in_total() {
    let node = Node::start(Setup { limits: "max_channels = 3", ..Setup::default() }).await;
    for channel in ["open.1", "open.2", "open.3"] {
        node.publish(channel, "1").await;
    }
    let reply = node.post("open.4", "application/json", b"1").await;
    assert_eq!((reply.status, reply.problem()), (429, "limit-reached".into()));
    let mut ws = node.connect().await;
    ws.hello().await;
    ws.send(&command(json!({"type": "subscribe", "channel": "open.5"}))).await;
    assert_eq!(ws.json().await["code"], "limit_reached");
    assert_eq!(node.signed("DELETE", "/v1/channels/open.1", None).await.status, 204);
    node.publish("open.4", "1").await;
}
