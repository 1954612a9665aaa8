//! Short codes against guessers: one network does not stop others, and codes are as long as their number needs.

use serde_json::{Value, json};

use crate::node::{Node, Setup};
use crate::raw::ask;
use crate::ws::{End, RawWs, command};

/// A gateway behind a proxy that names its clients.
async fn node() -> Node {
    let more = "[listeners.pair]\naddress = \"127.0.0.1:0\"\nroles = [\"pair\"]\n";
    Node::start(Setup { top: "trusted_proxies = [\"127.0.0.1\"]", more, ..Setup::default() }).await
}

/// A new room with a code.
async fn open(node: &Node, code: &str) -> Value {
    let body = json!({ "code": code }).to_string();
    let head = format!("POST /v1/rooms HTTP/1.1\r\nhost: pair\r\ncontent-length: {}\r\n\r\n", body.len());
    let reply = ask(node.address("pair"), (head + &body).as_bytes()).await.expect("an answer");
    assert_eq!(reply.status, 201, "{reply:?}");
    reply.json()
}

fn code(room: &Value) -> &str {
    room["code"].as_str().unwrap()
}

/// The answer to a join with a code by a client of this address.
async fn join(node: &Node, address: &str, code: &str) -> Result<String, End> {
    let headers = format!("sec-websocket-protocol: lastmile.pair.v1\r\nx-forwarded-for: {address}\r\n");
    let mut peer = RawWs::open(node.address("pair"), "/v1/rooms", &headers).await.expect("an upgrade");
    peer.send(&command(json!({"type": "join", "code": code}))).await;
    peer.text().await
}

#[tokio::test]
async fn guessing_block_stops_no_stranger() {
    let node = node().await;
    let room = open(&node, "words").await;
    let refused = Err(End::Close(4004, "rate_limited".into()));
    let wrong = Err(End::Close(4511, "unknown_room".into()));
    // Sixty /64 of one /48, each in a /56 of its own, ten wrong codes each.
    let mut let_through = 0;
    for n in 0..60 {
        let address = format!("2001:db8:1:{n:x}00::1");
        let guesses = (0..10).map(|_| join(&node, &address, "000000"));
        let_through += futures_util::future::join_all(guesses).await.iter().filter(|end| **end == wrong).count();
    }
    assert!((60..70).contains(&let_through), "{let_through}");
    assert_eq!(join(&node, "2001:db8:1:ff00::1", code(&room)).await, refused, "the same /48");
    let joined = join(&node, "2001:db8:2::1", code(&room)).await.expect("the right code of a stranger");
    assert!(joined.contains("\"joined\""), "{joined}");
}

#[tokio::test]
async fn guessers_everywhere_slow_strangers_down() {
    let node = node().await;
    let room = open(&node, "words").await;
    // Ninety networks that have nothing in common, as often as they may.
    for n in 0..90 {
        let address = format!("198.{n}.0.1");
        futures_util::future::join_all((0..12).map(|_| join(&node, &address, "zone-zone-zone"))).await;
    }
    let joined = join(&node, "203.0.113.1", code(&room)).await.expect("the right code of a stranger");
    assert!(joined.contains("\"joined\""), "{joined}");
}

#[tokio::test]
async fn codes_grow_with_their_number() {
    let node = node().await;
    let mut rooms = Vec::new();
    for _ in 0..20 {
        rooms.push(code(&open(&node, "digits").await).len());
    }
    assert!(rooms.is_sorted() && rooms[0] == 6 && rooms[19] == 8, "{rooms:?}");
    let mut words = Vec::new();
    for _ in 0..20 {
        words.push(code(&open(&node, "words").await).split('-').count());
    }
    assert!(words.is_sorted() && words[0] == 3 && words[19] == 4, "{words:?}");
}
