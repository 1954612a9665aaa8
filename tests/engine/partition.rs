//! A node without its Redis sends `degraded`, then `restored`; a node whose Redis is full is not ready.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use test_support::events::Stream;
use test_support::http::send;
use test_support::{RedisServer, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::gateways::{Pair, is_up, readiness};

/// A path to Redis that can be closed: bytes sent meanwhile arrive later, without an error.
struct Way {
    address: SocketAddr,
    is_open: watch::Sender<bool>,
}

impl Way {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_open, open) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(pass(near_in, far_out, open.clone()));
                tokio::spawn(pass(far_in, near_out, open.clone()));
            }
        });
        Self { address, is_open }
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut open: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        // The test has ended if the other side is dropped.
        if open.wait_for(|is_open| *is_open).await.is_err() || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partition_reports_degraded_then_recovered() {
    let server = RedisServer::start(true);
    let way = Way::to(server.port).await;
    let engines = [format!("url = \"redis://{}\"", way.address), format!("url = \"{}\"", server.url())];
    let pair = Pair::with(engines.each_ref().map(String::as_str)).await;
    let mut cut_off = pair.subscriber(0).await;
    let mut connected = pair.subscriber(1).await;
    for channel in ["c", "d"] {
        cut_off.subscribe(channel).await;
        connected.subscribe(channel).await;
    }
    let token = format!("Bearer {}", pair.issuer.token("alice"));
    let headers = [("authorization", token.as_str())];
    let mut stream = Stream::open(pair.gateways[0].address("public"), "/v1/events?channel=c", &headers).await.unwrap();
    stream.expect("subscribed").await;
    let idle = pair.subscriber(0).await;

    let began = Instant::now();
    way.is_open.send_replace(false);
    let mut degraded =
        [cut_off.expect("degraded").await, cut_off.expect("degraded").await].map(|frame| frame["channel"].clone());
    degraded.sort_by_key(|channel| channel.to_string());
    assert_eq!(degraded, [json!("c"), json!("d")]);
    assert!(began.elapsed() < Duration::from_secs(30), "reported after {:?}", began.elapsed());
    assert_eq!(stream.expect("degraded").await.json(), json!({"type": "degraded", "channel": "c"}));
    for n in 1..=3 {
        assert_eq!(send(pair.publish_address(1), pair.request(n.to_string().as_bytes())).await.status, 200);
        assert_eq!(connected.expect("message").await["offset"], n);
    }
    connected.expect_silence().await;
    cut_off.expect_silence().await;

    let healed = Instant::now();
    way.is_open.send_replace(true);
    let mut restored = Vec::new();
    let mut next = 1;
    while restored.len() < 2 {
        let frame = cut_off.json().await;
        match frame["type"].as_str() {
            Some("message") => {
                assert_eq!(frame["offset"], next);
                next += 1;
            }
            Some("restored") => {
                assert!(frame["channel"] == "d" || next == 4, "everything came before it");
                restored.push(frame["channel"].clone());
            }
            _ => panic!("{frame}"),
        }
    }
    assert!(healed.elapsed() < Duration::from_secs(40), "whole after {:?}", healed.elapsed());
    for _ in 1..=3 {
        assert_eq!(stream.expect("message").await.json()["type"], "message");
    }
    assert_eq!(stream.expect("restored").await.json(), json!({"type": "restored", "channel": "c"}));
    assert_eq!(send(pair.publish_address(1), pair.request(b"4")).await.status, 200);
    assert_eq!(cut_off.expect("message").await["offset"], 4);
    connected.expect("message").await;
    connected.expect_silence().await;
    let mut idle = idle;
    idle.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_redis_makes_node_not_ready() {
    let server = RedisServer::start(false);
    let unlimited = "[[channels]]\nmatch = \"c\"\nmax_connections = 0\nbacklog_messages = 100\n";
    let pair = Pair::start(&format!("url = \"{}\"\n{unlimited}", server.url())).await;
    let mut ws = pair.subscriber(0).await;
    ws.subscribe("c").await;
    assert_eq!(send(pair.publish_address(0), pair.request(b"1")).await.status, 200);
    assert_eq!(ws.expect("message").await["offset"], 1);
    server.command("CONFIG SET maxmemory 1").unwrap();
    for gateway in &pair.gateways {
        let full = (503, "engine-full".to_owned());
        eventually("unreadiness", async || (readiness(gateway).await == full).then_some(())).await;
        assert!(!is_up(gateway).await);
    }
    let refused = send(pair.publish_address(0), pair.request(b"2")).await;
    assert_eq!(refused.refusal(), (503, "engine-unavailable".to_owned()));
    // They are not cut off, and others can still come and read what is kept, where no place has to be reserved.
    let mut late = pair.subscriber(1).await;
    assert_eq!(late.subscribe_with("c", json!({"backlog": 10})).await["recovered"], true);
    assert_eq!(late.expect("message").await["offset"], 1);
    late.subscribe_refused("d", "engine_unavailable").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    ws.expect_silence().await;
    server.command("CONFIG SET maxmemory 0").unwrap();
    for gateway in &pair.gateways {
        eventually("readiness", async || (readiness(gateway).await.0 == 200).then_some(())).await;
    }
    assert_eq!(send(pair.publish_address(0), pair.request(b"2")).await.status, 200);
    assert_eq!(ws.expect("message").await["offset"], 2);
}
