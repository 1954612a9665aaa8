//! Very many connections at once: silent ones, subscribers, those that come and go, and the end of the process.
//! A process here has 20,000 descriptors, so there are never more than 10,000 sockets.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use test_support::{TEST_TIMEOUT, with_timeout};
use tokio::net::TcpStream;

use crate::heavy;
use crate::node::{HealthySubscriber, Node, Setup};
use crate::raw::{connect, read_to_end, send};
use crate::tls::Certified;
use crate::ws::{CLOSE, End, RawWs, command, frame, offset_of, upgrade};

/// Connections that are being made at the same time.
const MAX_CONCURRENT_CONNECTS: usize = 200;

/// `count` things, made some at a time.
async fn open_many<T>(count: usize, make: impl AsyncFn(usize) -> T) -> Vec<T> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let some = all.len()..count.min(all.len() + MAX_CONCURRENT_CONNECTS);
        all.extend(join_all(some.map(|at| make(at))).await);
    }
    all
}

#[tokio::test]
async fn silent_connections_are_cheap_and_end() {
    let _turn = heavy().await;
    let node = Node::start(Setup { limits: "handshake_secs = 8", ..Setup::default() }).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    let before = node.rss();
    node.reset_peak();
    let silent: Vec<TcpStream> = open_many(10_000, async |_| connect(node.public()).await).await;
    healthy.check_served(&node).await;
    // The bound is 8 KiB for each, in a build without optimisation.
    let grown = node.peak().saturating_sub(before);
    assert!(grown < 10_000 * 8, "{grown} KiB for 10,000 connections");
    node.await_metric("lastmile_sockets", 2.0).await;
    for mut stream in silent {
        let rest = read_to_end(&mut stream, Duration::from_secs(1)).await;
        assert_eq!(rest.as_deref(), Some(&b""[..]));
    }
    healthy.check_served(&node).await;
}

#[tokio::test]
async fn half_open_tls_is_bounded() {
    let _turn = heavy().await;
    let certified = Certified::new();
    let node = certified.node(Setup { limits: "handshake_secs = 5", ..Setup::default() }).await;
    let before = node.rss();
    node.reset_peak();
    let hello = certified.client_hello();
    let half_open = open_many(2000, async |_| {
        let mut stream = connect(node.public()).await;
        send(&mut stream, &hello[..hello.len() - 1]).await;
        stream
    })
    .await;
    // Others are served.
    certified.subscriber(&node, "open.a").await.is_alive().await;
    let grown = node.peak().saturating_sub(before);
    assert!(grown < 2000 * 48, "{grown} KiB for 2,000 handshakes");
    node.await_metric("lastmile_sockets", 1.0).await;
    drop(half_open);
}

#[tokio::test]
async fn five_thousand_subscribers_in_order() {
    let _turn = heavy().await;
    let node = Node::start(Setup { limits: "ping_secs = 300", ..Setup::default() }).await;
    const PUBLICATIONS: u64 = 200;
    const WINDOW: u64 = 10;
    let mut subscribers = open_many(5000, async |_| node.subscriber("open.many").await).await;
    assert_eq!(node.metric("lastmile_subscriptions").await, 5000.0);
    let mut publisher = node.publisher_ws().await;
    let publishing = async {
        for first in (1..=PUBLICATIONS).step_by(WINDOW as usize) {
            let publish = |n| serde_json::json!({"type": "publish", "channel": "open.many", "data": {"sequence": n}});
            publisher.send(&(first..first + WINDOW).flat_map(|n| command(publish(n))).collect::<Vec<_>>()).await;
            for offset in first..first + WINDOW {
                assert_eq!(offset_of(&publisher.text().await.expect("an answer")), offset);
            }
        }
    };
    let reading = join_all(subscribers.iter_mut().map(async |subscriber| {
        for sequence in 1..=PUBLICATIONS {
            let message = subscriber.text().await.expect("a message");
            assert_eq!(offset_of(&message), sequence);
            assert!(message.ends_with(&format!(r#""data":{{"sequence":{sequence}}}}}"#)), "{message}");
        }
    }));
    tokio::join!(publishing, reading);
    assert_eq!(node.metric("lastmile_deliveries_total").await, 5000.0 * PUBLICATIONS as f64);
    // Nothing comes a second time.
    for subscriber in subscribers.iter_mut().step_by(97) {
        subscriber.is_alive().await;
    }
}

#[tokio::test]
async fn memory_returns_after_churn() {
    let _turn = heavy().await;
    let node = Node::start(Setup::default()).await;
    let mut after_first = 0;
    for round in 0..4 {
        let subscribers = open_many(5000, async |_| node.subscriber("open.churn").await).await;
        let closing = subscribers.into_iter().enumerate().map(async |(at, mut ws)| {
            if at % 2 == 0 {
                ws.send(&frame(CLOSE, &1000u16.to_be_bytes())).await;
                assert_eq!(ws.end().await.code(), 1000);
            } else {
                ws.stream.set_zero_linger().unwrap();
            }
        });
        join_all(closing).await;
        node.await_metric("lastmile_connections", 0.0).await;
        assert_eq!(node.metric("lastmile_subscriptions").await, 0.0);
        match round {
            0 => after_first = node.rss(),
            // Fifteen thousand more were opened and closed.
            _ => _ = node.await_rss(after_first + 12 * 1024, "memory grows with connections that are gone").await,
        }
    }
}

#[tokio::test]
async fn drain_closes_all_in_time() {
    let _turn = heavy().await;
    let more = "[drain]\nwindow_secs = 1\ndeadline_secs = 10";
    let mut node = Node::start(Setup { more, limits: "hello_secs = 300\nclose_secs = 2", ..Setup::default() }).await;
    let subscribers = open_many(1000, async |at| match at % 20 {
        0 => node.publisher_ws().await,
        1 => node.connect().await,
        _ => node.subscriber("open.drain").await,
    })
    .await;
    // These never answer, and these never sent a byte.
    let sleepers = open_many(10, async |_| node.subscriber("open.drain").await).await;
    let silent = open_many(10, async |_| connect(node.public()).await).await;
    let address = node.public();
    let begun = Instant::now();
    node.signal("TERM");
    let ends = join_all(subscribers.into_iter().map(async |mut ws: RawWs| ws.end().await)).await;
    assert_eq!(ends.len(), 1000);
    for end in ends {
        assert_eq!(end, End::Close(4000, "draining".into()));
    }
    let status = node.exit(TEST_TIMEOUT).await;
    assert_eq!(status.code(), Some(0));
    // The deadline, and the rest is for a busy machine.
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert!(TcpStream::connect(address).await.is_err(), "the port is still open");
    for mut ws in sleepers {
        assert_eq!(with_timeout("the Close", ws.frame()).await.unwrap_err(), End::Close(4000, "draining".into()));
    }
    drop(silent);
}

#[tokio::test]
async fn drain_refuses_new_work() {
    let more = "[drain]\nwindow_secs = 2\ndeadline_secs = 8";
    let mut node = Node::start(Setup { more, limits: "close_secs = 2", ..Setup::default() }).await;
    let mut held = node.subscriber("open.drain").await;
    let (mut idle, mut half) = (connect(node.public()).await, connect(node.public()).await);
    send(&mut half, &upgrade("/v1/subscribe", "gateway", "")[..40]).await;
    // So that both are accepted.
    node.connect().await.hello().await;
    node.signal("TERM");
    assert_eq!(held.end().await, End::Close(4000, "draining".into()));
    send(&mut half, &upgrade("/v1/subscribe", "gateway", "")[40..]).await;
    let rest = read_to_end(&mut half, TEST_TIMEOUT).await.expect("closed");
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 503 "), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(node.exit(TEST_TIMEOUT).await.code(), Some(0));
    assert!(read_to_end(&mut idle, Duration::from_secs(1)).await.is_some());
}

const ROOMS: &str = "[listeners.pair]\naddress = \"127.0.0.1:0\"\nroles = [\"pair\"]\n";

#[tokio::test]
async fn left_rooms_leave_nothing() {
    let _turn = heavy().await;
    let node = Node::start(Setup { more: ROOMS, ..Setup::default() }).await;
    let address = node.address("pair");
    let open_and_leave = async |count: usize| {
        open_many(count, async |n| {
            let path = if n % 2 == 0 { "/v1/ws/".to_owned() } else { format!("/v1/relay/{n}") };
            let Ok(mut peer) = RawWs::open(address, &path, "").await else { panic!("{path} was refused") };
            assert!(peer.text().await.is_ok());
        })
        .await;
        node.await_metric("lastmile_rooms", 0.0).await;
    };
    // As many as later, so that what so many take at once is there already.
    open_and_leave(10_000).await;
    let before = node.rss();
    open_and_leave(10_000).await;
    assert_eq!(node.metric("lastmile_rooms_opened_total").await, 20_000.0);
    // Nothing that grows with the rooms: 400 bytes for each of them would be more than this.
    node.await_rss(before + 4_000, "the memory of rooms").await;
}
