//! Slow WebSocket subscribers: bounded memory, and no effect on others.

use std::net::SocketAddr;

use futures_util::future::join_all;
use test_support::with_timeout;
use tokio::net::TcpSocket;

use crate::heavy;
use crate::node::{Node, Setup};
use crate::ws::{End, RawWs, offset_of, text, upgrade};

const MESSAGE_BYTES: usize = 64_000;

/// Publications that are sent before their answers are read.
const WINDOW: u64 = 16;

/// A subscriber whose kernel takes little for it.
async fn sleeper(node: &Node, channel: &str) -> RawWs {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let address: SocketAddr = node.public();
    let stream = with_timeout("a connection", socket.connect(address)).await.unwrap();
    let mut ws = RawWs::over(stream, &upgrade("/v1/subscribe", "gateway", "")).await.expect("an upgrade");
    ws.hello().await;
    ws.subscribe(channel).await;
    ws
}

/// Publishes `count` large messages from offset `from` on; every reader must get each of them before more are sent.
async fn publish(publisher: &mut RawWs, channel: &str, from: u64, count: u64, readers: &mut [RawWs]) {
    let data = "x".repeat(MESSAGE_BYTES - 2);
    let one = text(&format!(r#"{{"type":"publish","channel":"{channel}","data":"{data}"}}"#));
    let window = one.repeat(WINDOW as usize);
    for first in (from..from + count).step_by(WINDOW as usize) {
        let publishing = async {
            publisher.send(&window).await;
            for offset in first..first + WINDOW {
                let answer = publisher.text().await.expect("an answer");
                assert!(answer.starts_with(r#"{"type":"published""#) && offset_of(&answer) == offset, "{answer}");
            }
        };
        let reading = join_all(readers.iter_mut().map(async |reader| {
            for offset in first..first + WINDOW {
                let message = reader.text().await.expect("a message");
                assert_eq!(offset_of(&message), offset);
                assert!(message.len() > MESSAGE_BYTES);
            }
        }));
        tokio::join!(publishing, reading);
    }
}

#[tokio::test]
async fn unread_subscriber_costs_its_outbox() {
    let _turn = heavy().await;
    let limits = "outbox_bytes = 4194304\nclose_secs = 600\nping_secs = 300\noutbox_stall_secs = 300";
    let node = Node::start(Setup { limits, ..Setup::default() }).await;
    let mut readers = [node.subscriber("open.big").await, node.subscriber("open.big").await];
    let mut publisher = node.publisher_ws().await;
    // The cost of a reader that keeps up.
    publish(&mut publisher, "open.big", 1, WINDOW * 4, &mut readers).await;
    let before = node.rss();
    let mut asleep = sleeper(&node, "open.big").await;
    node.reset_peak();
    // 200 MB.
    let rounds = 200_000_000 / MESSAGE_BYTES as u64 / WINDOW;
    publish(&mut publisher, "open.big", WINDOW * 4 + 1, rounds * WINDOW, &mut readers).await;
    let grown = node.peak().saturating_sub(before);
    // The outbox, and a batch or two on their way to the readers.
    assert!(grown < (4 + 24) * 1024, "{grown} KiB");
    assert_eq!(node.metric("lastmile_slow_consumers_total").await, 1.0);

    let mut last = WINDOW * 4;
    let end = loop {
        match asleep.text().await {
            Ok(message) => {
                last += 1;
                assert_eq!(offset_of(&message), last, "what comes before the end is without a gap");
            }
            Err(end) => break end,
        }
    };
    assert_eq!(end, End::Close(4001, "slow_consumer".into()));
    // And those who read still do.
    publish(&mut publisher, "open.big", (rounds + 4) * WINDOW + 1, WINDOW, &mut readers).await;
}

#[tokio::test]
async fn latest_subscriber_is_never_closed() {
    let _turn = heavy().await;
    let more = "[[channels]]\nmatch = \"latest\"\nsubscribers = \"anyone\"\nslow_consumer = \"latest\"";
    let limits = "ping_secs = 300\noutbox_stall_secs = 300";
    let node = Node::start(Setup { more, limits, ..Setup::default() }).await;
    let mut publisher = node.publisher_ws().await;
    // The cost of publishing without a subscriber.
    publish(&mut publisher, "latest", 1, WINDOW * 4, &mut []).await;
    let before = node.rss();
    let mut asleep = sleeper(&node, "latest").await;
    node.reset_peak();
    let count = WINDOW * 64;
    publish(&mut publisher, "latest", WINDOW * 4 + 1, WINDOW * 60, &mut []).await;
    let grown = node.peak().saturating_sub(before);
    // One publication, not 60 MB.
    assert!(grown < 24 * 1024, "{grown} KiB");
    let (mut last, mut got) = (0, 0);
    while last < count {
        let offset = offset_of(&asleep.text().await.expect("a message"));
        assert!(offset > last, "{offset} after {last}");
        (last, got) = (offset, got + 1);
    }
    assert!(got < WINDOW * 60, "the socket took everything, so nothing was tested");
    assert_eq!(node.metric("lastmile_slow_consumers_total").await, 0.0);
    asleep.is_alive().await;
}

#[tokio::test]
async fn blocked_socket_is_closed() {
    let _turn = heavy().await;
    let limits = "outbox_bytes = 67108864\noutbox_stall_secs = 1\nclose_secs = 600";
    let node = Node::start(Setup { limits, ..Setup::default() }).await;
    let mut publisher = node.publisher_ws().await;
    let mut asleep = sleeper(&node, "open.stall").await;
    let mut reader = node.subscriber("open.stall").await;
    let count = WINDOW * 10;
    publish(&mut publisher, "open.stall", 1, count, std::slice::from_mut(&mut reader)).await;
    // The stall is seen by the sweep, a second or two later.
    node.await_metric("lastmile_slow_consumers_total", 1.0).await;
    let end = loop {
        if let Err(end) = asleep.text().await {
            break end;
        }
    };
    assert_eq!(end, End::Close(4001, "slow_consumer".into()));
    drop(asleep);
    node.await_metric(r#"lastmile_closes_total{reason="slow_consumer"}"#, 1.0).await;
    reader.is_alive().await;
}
