//! A peer of a room: every frame as it comes, and a gateway to meet at.

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use test_support::http::Answer;
use test_support::{TestEnv, Ws};

/// A gateway with the roles of rooms: the listeners `pair`, `relay` (scope `deep/scope`) and those of every test.
pub async fn env(rooms: &str) -> TestEnv {
    crate::start(&format!(
        r#"
        [listeners.pair]
        address = "127.0.0.1:0"
        roles = ["pair"]
        [listeners.relay]
        address = "127.0.0.1:0"
        roles = ["relay"]
        [listeners.scoped]
        address = "127.0.0.1:0"
        roles = ["relay"]
        scope = "deep/scope"
        [rooms]
        {rooms}"#
    ))
    .await
}

/// A connection to the listener `pair`.
pub async fn open(env: &TestEnv, path: &str) -> Ws {
    try_open(env, "pair", path, &[]).await.expect("an upgrade")
}

/// A connection with the subprotocol of native rooms.
pub async fn open_native(env: &TestEnv, path: &str) -> Ws {
    try_open(env, "pair", path, &[("sec-websocket-protocol", "lastmile.pair.v1")]).await.expect("an upgrade")
}

/// A connection to the next node in turn.
pub async fn try_open(env: &TestEnv, listener: &str, path: &str, headers: &[(&str, &str)]) -> Result<Ws, Answer> {
    Ws::connect(env.next_address(listener), path, headers).await
}

/// The path of a new room of the channelserver form, and its first peer.
pub async fn channel(env: &TestEnv) -> (String, Ws) {
    let mut peer = open(env, "/v1/ws/").await;
    let link = peer.json().await["link"].as_str().unwrap().to_owned();
    (link, peer)
}

/// Opens a native room; returns the gateway's description.
pub async fn open_room(env: &TestEnv, asked: Value) -> Value {
    let answer = post_room(env, asked).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()
}

pub async fn post_room(env: &TestEnv, asked: Value) -> Answer {
    let address = env.next_address("pair");
    let body = Bytes::from(asked.to_string());
    let request = Request::post("/v1/rooms")
        .header("host", address.to_string())
        .header("content-type", "application/json")
        .header("content-length", body.len());
    test_support::http::send(address, request.body(body).unwrap()).await
}

/// Joins with the join secret; gives the peer and its `joined`.
pub async fn join(env: &TestEnv, room: &Value) -> (Ws, Value) {
    let mut peer = open_native(env, room["link"].as_str().unwrap()).await;
    peer.send(json!({"type": "join", "secret": room["join_secret"]})).await;
    let joined = peer.expect("joined").await;
    (peer, joined)
}

/// Two peers who know of each other, in a room of the form.
pub async fn pair(env: &TestEnv, form: &str) -> (Ws, Ws) {
    match form {
        "channelserver" => {
            let (link, a) = channel(env).await;
            let mut b = open(env, &link).await;
            b.text().await;
            (a, b)
        }
        "relay" => {
            static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            let path = format!("/v1/relay/{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            let mut a = open(env, &path).await;
            a.expect_texts(&["/status:waiting"]).await;
            let mut b = open(env, &path).await;
            b.expect_texts(&["/status:connected"]).await;
            a.expect_texts(&["/remote:open", "/status:connected"]).await;
            (a, b)
        }
        _ => {
            let room = open_room(env, json!({})).await;
            let (mut a, _) = join(env, &room).await;
            let (b, _) = join(env, &room).await;
            a.expect("peer_joined").await;
            (a, b)
        }
    }
}

/// A text of a peer as its form writes it.
pub fn encode(form: &str, text: &str) -> String {
    if form == "native" { json!({"type": "message", "data": text}).to_string() } else { text.to_owned() }
}

/// The text in a message that the other peer receives.
pub fn decode(form: &str, text: &str) -> String {
    let member = match form {
        "relay" => return text.to_owned(),
        "channelserver" => "message",
        _ => "data",
    };
    serde_json::from_str::<Value>(text).unwrap()[member].as_str().unwrap().to_owned()
}

pub const FORMS: [&str; 3] = ["channelserver", "relay", "native"];
