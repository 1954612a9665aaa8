//! Each limit holds at its value and not before, and released slots are available again.

use serde_json::json;
use test_support::eventually;

use crate::node::{Node, Setup};
use crate::raw::{ask, connect, read_reply, request_bytes, send};
use crate::ws::{End, PING, PONG, RawWs, command, frame, upgrade};

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
async fn pings_on_every_kind_of_connection() {
    let listeners = r#"
        [listeners.rooms]
        address = "127.0.0.1:0"
        roles = ["pair"]
        [listeners.tslm]
        address = "127.0.0.1:0"
        roles = ["tslm"]
        default_endpoint_permissions = ["Subscribe", "CreateChannel", "NotifyChannel"]
        channels = ["*"]
        [listeners.flock]
        address = "127.0.0.1:0"
        roles = ["flock"]
    "#;
    let node = Node::start(Setup { more: listeners, ..Setup::default() }).await;
    for (listener, path) in [
        ("public", "/v1/subscribe"),
        ("rooms", "/v1/rooms"),
        ("rooms", "/v1/ws/"),
        ("rooms", "/v1/relay/x"),
        ("tslm", "/"),
        ("flock", "/ws"),
    ] {
        let mut ws = RawWs::open(node.address(listener), path, "").await.expect("an upgrade");
        flood_with_pings(&mut ws, path).await;
    }
    flood_with_pings(&mut node.publisher_ws().await, "/v1/publish").await;
}

async fn flood_with_pings(ws: &mut RawWs, path: &str) {
    ws.send(&[frame(PING, b"").repeat(1_000), frame(PONG, b"").repeat(1_000)].concat()).await;
    let end = loop {
        match ws.frame().await {
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    assert_eq!(end, End::Close(4004, "rate_limited".into()), "{path}");
}

#[tokio::test]
async fn descriptors_are_kept_for_ops_and_publishers() {
    let node = Node::start(Setup { ulimit: "-n 96", ..Setup::default() }).await;
    assert!(node.log().iter().any(|line| line.contains("accepting fewer connections")), "{:?}", node.log());
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(connect(node.public()).await);
    }
    // More come and go all the time.
    let public = node.public();
    let flood = tokio::spawn(async move {
        loop {
            connect(public).await;
        }
    });
    for n in 1..=20 {
        assert_eq!(node.publish("open.a", "1").await["offset"], n);
        assert_eq!(ask(node.address("ops"), b"GET /healthz HTTP/1.1\r\nhost: ops\r\n\r\n").await.unwrap().status, 200);
    }
    let _publisher = node.publisher_ws().await;
    flood.abort();
    held.clear();
    reopen(&node).await.hello().await;
}

#[tokio::test]
async fn descriptor_limit_is_raised() {
    let node = Node::start(Setup { ulimit: "-S -n 64", ..Setup::default() }).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[3], words[4], "{line}");
}

#[tokio::test]
async fn idempotency_answers_are_small() {
    let _turn = crate::heavy().await;
    let node = Node::start(Setup::default()).await;
    // Each position names its channel, escaped, in 577 KiB for a batch.
    let path = format!("/v1/channels/{}/messages", "%22".repeat(255));
    let batch = b"1\n".repeat(1_000);
    let post = async |key: &str| {
        let body = Some(("application/x-ndjson", &batch[..]));
        let authority = node.address("publish").to_string();
        let mut request = node.publisher.request(&authority, "POST", &path, body);
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        let reply = ask(node.address("publish"), &request_bytes(&request)).await.expect("an answer");
        assert_eq!(reply.status, 200);
        reply.json()
    };
    let first = post("first").await;
    let before = node.rss();
    for n in 0..60 {
        post(&n.to_string()).await;
    }
    let grown = node.rss().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB for 60 answers");
    assert_eq!(post("first").await, first, "the whole answer again");
    assert_eq!((first[999]["offset"].as_u64(), first.as_array().map(Vec::len)), (Some(1_000), Some(1_000)));
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
    // A subscriber makes no channel.
    assert_eq!(ws.json().await["type"], "subscribed");
    let reply = node.post("open.5", "application/json", b"1").await;
    assert_eq!((reply.status, reply.problem()), (429, "limit-reached".into()));
    assert_eq!(node.signed("DELETE", "/v1/channels/open.1", None).await.status, 204);
    node.publish("open.4", "1").await;
}
