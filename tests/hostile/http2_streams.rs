//! Streams of HTTP/2 that stay open: they count as connections, and cost no more than one.

use std::net::SocketAddr;

use crate::heavy;
use crate::http2::{END_HEADERS, END_STREAM, HEADERS, RawH2, frame, streams};
use crate::node::Setup;
use crate::raw::send;
use crate::tls::Certified;

/// Streams that a client may open at once on one connection.
const STREAMS: u32 = 128;

/// A string of a field, without compression (RFC 7541 sections 5.1 and 5.2).
fn string(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    match text.len() {
        short @ 0..127 => bytes.push(short as u8),
        long => {
            bytes.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// The head of a `GET`, with a token if there is one.
fn head(path: &str, token: Option<&str>) -> Vec<u8> {
    let mut head = [vec![0x82, 0x87, 0x04], string(path), vec![0x01], string("localhost")].concat();
    if let Some(token) = token {
        // `authorization` is the name of entry 23 (RFC 7541 appendix A); never indexed.
        head.extend([vec![0x1f, 8], string(&format!("Bearer {token}"))].concat());
    }
    head
}

/// So many requests; the first one may have a head of its own.
fn requests(count: u32, first: &[u8], others: &[u8]) -> Vec<u8> {
    let of = |id| if id == 1 { first } else { others };
    streams(count).flat_map(|id| frame(HEADERS, END_STREAM | END_HEADERS, id, of(id))).collect()
}

/// The status of each stream of one connection that requests the same `count` times.
async fn statuses(peer: &mut RawH2, count: u32, head: &[u8]) -> Vec<&'static str> {
    send(&mut peer.0, &requests(count, head, head)).await;
    let mut statuses = Vec::new();
    while statuses.len() < count as usize {
        let (kind, _, payload) = peer.frame().await.expect("an open connection");
        if kind == HEADERS {
            // `:status: 200` is entry 8 of the static table.
            statuses.push(if payload[0] == 0x88 { "200" } else { "refused" });
        }
    }
    statuses
}

fn accepted(statuses: &[&str]) -> usize {
    statuses.iter().filter(|status| **status == "200").count()
}

async fn open(certified: &Certified, address: SocketAddr) -> RawH2 {
    RawH2::open(certified, address, &[]).await
}

#[tokio::test]
async fn streams_count_as_connections() {
    let certified = Certified::new();
    for (limits, paths) in [
        ("max_connections = 4", ["/v1/events?channel=open.a"; 3]),
        ("max_connections_per_address = 4", ["/v1/events?channel=open.a"; 3]),
        ("max_connections = 4", ["/v1/poll?channel=open.a&since=x-0&wait=60"; 3]),
    ] {
        let node = certified.node(Setup { limits, ..Setup::default() }).await;
        let token = node.issuer.token("alice");
        let mut peers = Vec::new();
        for _ in paths {
            peers.push(open(&certified, node.public()).await);
        }
        let mut events = 0;
        for (peer, path) in peers.iter_mut().zip(paths) {
            let head = head(path, Some(&token));
            if path.starts_with("/v1/events") {
                events += accepted(&statuses(peer, STREAMS, &head).await);
            } else {
                send(&mut peer.0, &requests(STREAMS, &head, &head)).await;
            }
        }
        if events > 0 {
            assert_eq!(events, 4, "{limits}: one for each connection, and one more");
        }
        node.await_metric("lastmile_connections", 4.0).await;
        node.await_metric("lastmile_refusals_total{type=\"connection-limit\"}", 380.0).await;
        drop(peers);
        node.await_metric("lastmile_connections", 0.0).await;
        let mut again = open(&certified, node.public()).await;
        let head = head("/v1/events?channel=open.a", None);
        assert_eq!(statuses(&mut again, 4, &head).await, ["200"; 4], "all places are free again");
    }
}

#[tokio::test]
async fn streams_without_credential_are_few() {
    let certified = Certified::new();
    let node = certified.node(Setup::default()).await;
    let mut stranger = open(&certified, node.public()).await;
    let anonymous = head("/v1/events?channel=open.a", None);
    assert_eq!(accepted(&statuses(&mut stranger, STREAMS, &anonymous).await), 16);
    // A token is checked, so a made-up one holds nothing.
    let mut liar = open(&certified, node.public()).await;
    let forged = head("/v1/events?channel=open.a", Some("e30.e30.AAAA"));
    assert_eq!(accepted(&statuses(&mut liar, STREAMS, &forged).await), 0);
    let mut known = open(&certified, node.public()).await;
    let with_token = head("/v1/events?channel=open.a", Some(&node.issuer.token("alice")));
    assert_eq!(accepted(&statuses(&mut known, STREAMS, &with_token).await), STREAMS as usize);
    node.await_metric("lastmile_connections", f64::from(16 + STREAMS)).await;
}

#[tokio::test]
async fn open_streams_keep_no_heads() {
    let _turn = heavy().await;
    let certified = Certified::new();
    for path in ["/v1/events?channel=open.a", "/v1/poll?channel=open.a&since=x-0&wait=60"] {
        let small = growth(&certified, path, false).await;
        let large = growth(&certified, path, true).await;
        // The heads are 15 KiB each.
        let allowed = small + 4 * CONNECTIONS as u64 * u64::from(STREAMS);
        assert!(large < allowed, "{path}: {small} KiB with small heads, {large} KiB with large ones");
    }
}

/// Connections full of streams.
const CONNECTIONS: usize = 8;

/// By how many KiB the memory of a new gateway grows while all streams are open.
async fn growth(certified: &Certified, path: &str, is_large: bool) -> u64 {
    let node = certified.node(Setup::default()).await;
    let small = head(path, Some(&node.issuer.token("alice")));
    // One field of 3.9 KB enters the table of the connection; each head refers to it three times.
    let entry = [&[0x40][..], &string("x-a"), &string(&"a".repeat(3_900))].concat();
    let first = [&small[..], &entry, &[0xbe; 2]].concat();
    let large = [&small[..], &[0xbe; 3]].concat();
    let (first, others) = if is_large { (&first, &large) } else { (&small, &small) };
    let before = node.rss();
    let mut peers = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut peer = open(certified, node.public()).await;
        send(&mut peer.0, &requests(STREAMS, first, others)).await;
        peers.push(peer);
    }
    node.await_metric("lastmile_connections", (CONNECTIONS * STREAMS as usize) as f64).await;
    node.rss().saturating_sub(before)
}
