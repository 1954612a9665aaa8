//! Our own form: secrets, codes, notices of peers, seats that are given back.

use serde_json::{Value, json};
use test_support::{Received, TestEnv, Ws};

use crate::client::{env, join, open_native, open_room, pair, post_room, try_open};

async fn resume(env: &TestEnv, room: &Value, resume: &Value, seen: Option<u64>) -> Ws {
    let mut peer = open_native(env, room["link"].as_str().unwrap()).await;
    peer.send(json!({"type": "resume", "resume": resume, "seen": seen})).await;
    peer
}

async fn by_code(env: &TestEnv, code: &str) -> Ws {
    let mut peer = open_native(env, "/v1/rooms").await;
    peer.send(json!({"type": "join", "code": code})).await;
    peer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_exchange_bytes_unchanged() {
    let env = env("").await;
    let room = open_room(&env, json!({})).await;
    assert_eq!(room["link"], format!("/v1/rooms/{}", room["room"].as_str().unwrap()));
    assert!(room["expires"].is_string() && room["code"].is_null());
    let (mut a, joined) = join(&env, &room).await;
    assert_eq!((&joined["peer"], &joined["peers"]), (&json!("p1"), &json!([])));
    assert_eq!((&joined["room"], &joined["expires"]), (&room["room"], &room["expires"]));
    a.send(json!({"type": "message", "id": "m", "data": 1})).await;
    let error = a.expect("error").await;
    assert_eq!((&error["id"], &error["code"], &error["temporary"]), (&json!("m"), &json!("peer_absent"), &json!(true)));
    let (mut b, joined) = join(&env, &room).await;
    let sender = json!({"remote": "127.0.0.1"});
    assert_eq!(joined["peers"], json!([{"peer": "p1", "sender": sender}]));
    assert_eq!(a.json().await, json!({"type": "peer_joined", "peer": "p2", "sender": sender}));
    b.send_text(r#"{"type":"message","id":"7","data": {"sdp" : "v=0", "n":1.50} }"#).await;
    let expected = r#"{"type":"message","seq":1,"from":"p2","id":"7","data":{"sdp" : "v=0", "n":1.50},"sender":{"remote":"127.0.0.1"}}"#;
    a.expect_texts(&[expected]).await;
    a.send(json!({"type": "ping", "id": "8"})).await;
    assert_eq!(a.json().await, json!({"type": "pong", "id": "8"}));
    b.send(json!({"type": "leave"})).await;
    b.expect_close(1000, "").await;
    assert_eq!(a.json().await, json!({"type": "peer_left", "peer": "p2", "reason": "left"}));
    let (mut c, joined) = join(&env, &room).await;
    assert_eq!(joined["peer"], "p3");
    a.expect("peer_joined").await;
    a.close(1000, "bye").await;
    assert_eq!(c.json().await, json!({"type": "peer_left", "peer": "p1", "reason": "left"}));
    c.send(json!({"type": "end"})).await;
    c.expect_close(4509, "peer_left").await;
    env.await_metric("lastmile_rooms", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_cannot_forge_gateway_frames() {
    let env = env("").await;
    let (mut a, mut b) = pair(&env, "native").await;
    let forged = json!({"type": "peer_left", "peer": "p1", "reason": "left"});
    b.send(json!({"type": "message", "data": forged, "from": "p1", "sender": {"ua": "x"}, "seq": 99})).await;
    let received = a.expect("message").await;
    assert_eq!(
        received,
        json!({"type": "message", "seq": 1, "from": "p2", "data": forged, "sender": {"remote": "127.0.0.1"}})
    );
    b.send(forged).await;
    assert_eq!(b.expect("error").await["code"], "malformed");
    b.send(json!({"type": "join", "secret": "x"})).await;
    assert_eq!(b.expect("error").await["code"], "malformed");
    b.send_text("/remote:close").await;
    b.expect_close(4500, "malformed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_indistinguishable() {
    let env = env("").await;
    let room = open_room(&env, json!({})).await;
    let full = open_room(&env, json!({})).await;
    let _both = (join(&env, &full).await, join(&env, &full).await);
    let absent = json!("AAAAAAAAAAAAAAAAAAAAAA");
    for id in [&room["room"], &full["room"], &absent] {
        for claim in [
            json!({"type": "join", "secret": "A".repeat(43)}),
            json!({"type": "join", "code": "123456"}),
            json!({"type": "resume", "resume": "A".repeat(43)}),
        ] {
            let mut peer = open_native(&env, &format!("/v1/rooms/{}", id.as_str().unwrap())).await;
            peer.send(claim).await;
            peer.expect_close(4511, "unknown_room").await;
        }
    }
    let mut third = open_native(&env, full["link"].as_str().unwrap()).await;
    third.send(json!({"type": "join", "secret": full["join_secret"]})).await;
    third.expect_close(4508, "connection_limit").await;
    for id in ["abc", "AAAAAAAAAAAAAAAAAAAAAA==", "AAAAAAAAAAAAAAAAAAAAAA/", "%FF", &"A".repeat(3000)] {
        let answer = try_open(&env, "pair", &format!("/v1/rooms/{id}"), &[]).await.err().expect("no upgrade");
        assert_eq!(answer.status, 404, "{id}");
    }
    assert_ne!(room["room"], room["join_secret"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_frame_must_join() {
    let env = env("").await;
    let room = open_room(&env, json!({})).await;
    for first in ["hello", r#"{"type":"message","data":1}"#, r#"{"type":"join"}"#, r#"{"type":"join","secret":1}"#] {
        let mut peer = open_native(&env, room["link"].as_str().unwrap()).await;
        peer.send_text(first).await;
        peer.expect_close(4500, "malformed").await;
    }
    let other = [("sec-websocket-protocol", "lastmile.v1")];
    let mut peer = try_open(&env, "pair", "/v1/rooms", &other).await.unwrap();
    peer.expect_close(4510, "unsupported_protocol").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_opens_room_once() {
    let env = env("").await;
    let room = open_room(&env, json!({"code": true})).await;
    let code = room["code"].as_str().unwrap().to_owned();
    assert!(code.len() == 6 && code.bytes().all(|b| b.is_ascii_digit()), "{code}");
    let (mut a, _) = join(&env, &room).await;
    let mut b = by_code(&env, &format!("{} {}", &code[..3], &code[3..])).await;
    assert_eq!(b.expect("joined").await["room"], room["room"]);
    a.expect("peer_joined").await;
    by_code(&env, &code).await.expect_close(4511, "unknown_room").await;
    let room = open_room(&env, json!({"code": "words"})).await;
    let code = room["code"].as_str().unwrap().to_owned();
    assert_eq!(code.split('-').count(), 3, "{code}");
    // Three wrong ones, and the right one is no good any more.
    for _ in 0..3 {
        let mut peer = open_native(&env, room["link"].as_str().unwrap()).await;
        peer.send(json!({"type": "join", "code": "one-two-three"})).await;
        peer.expect_close(4511, "unknown_room").await;
    }
    by_code(&env, &code).await.expect_close(4511, "unknown_room").await;
    // An address may guess so often.
    let mut ends = Vec::new();
    for _ in 0..10 {
        ends.push(by_code(&env, "000000").await.receive().await);
    }
    assert_eq!(ends.pop(), Some(Received::Close(4004, "rate_limited".into())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_expires() {
    let env = env("code_secs = 1").await;
    let room = open_room(&env, json!({"code": "digits"})).await;
    assert_eq!(room["code_secs"], 1);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    by_code(&env, room["code"].as_str().unwrap()).await.expect_close(4511, "unknown_room").await;
    join(&env, &room).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resume_delivers_missed_messages() {
    let env = env("").await;
    let room = open_room(&env, json!({})).await;
    let (mut a, _) = join(&env, &room).await;
    let (b, joined) = join(&env, &room).await;
    a.expect("peer_joined").await;
    drop(b);
    assert_eq!(a.json().await, json!({"type": "peer_left", "peer": "p2", "reason": "away"}));
    for n in 1..=3 {
        a.send(json!({"type": "message", "data": n})).await;
    }
    // The seat stays reserved meanwhile.
    let mut third = open_native(&env, room["link"].as_str().unwrap()).await;
    third.send(json!({"type": "join", "secret": room["join_secret"]})).await;
    third.expect_close(4508, "connection_limit").await;
    let mut b = resume(&env, &room, &joined["resume"], Some(1)).await;
    let again = b.expect("joined").await;
    assert_eq!(
        (&again["peer"], &again["recovered"], &again["resume"]),
        (&json!("p2"), &json!(true), &joined["resume"])
    );
    for n in 2..=3 {
        let message = b.expect("message").await;
        assert_eq!((&message["seq"], &message["data"]), (&json!(n), &json!(n)));
    }
    assert_eq!(a.expect("peer_joined").await["resumed"], true);
    // Taken over while it is there: the old connection is closed.
    let mut other = resume(&env, &room, &joined["resume"], None).await;
    assert_eq!(other.expect("joined").await["recovered"], true);
    b.expect_close(4508, "connection_limit").await;
    a.expect("peer_joined").await;
    other.send(json!({"type": "message", "data": "back"})).await;
    assert_eq!(a.expect("message").await["data"], "back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_seat_is_freed() {
    let env = env("resume_secs = 1").await;
    let room = open_room(&env, json!({})).await;
    let (mut a, _) = join(&env, &room).await;
    let (b, joined) = join(&env, &room).await;
    a.expect("peer_joined").await;
    drop(b);
    assert_eq!(a.expect("peer_left").await["reason"], "away");
    assert_eq!(a.expect("peer_left").await["reason"], "timeout");
    resume(&env, &room, &joined["resume"], None).await.expect_close(4511, "unknown_room").await;
    join(&env, &room).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_size_is_configurable() {
    let env = env("max_seats = 4").await;
    let room = open_room(&env, json!({"max_seats": 4})).await;
    let mut peers = Vec::new();
    for _ in 0..4 {
        peers.push(join(&env, &room).await.0);
    }
    for (n, peer) in peers.iter_mut().enumerate() {
        for _ in n..3 {
            peer.expect("peer_joined").await;
        }
    }
    peers[3].send(json!({"type": "message", "data": "all"})).await;
    for peer in &mut peers[..3] {
        assert_eq!(peer.expect("message").await["from"], "p4");
    }
    for asked in
        [json!({"max_seats": 5}), json!({"max_seats": 1}), json!({"seats": 2}), json!([]), json!({"code": "x"})]
    {
        assert_eq!(post_room(&env, asked).await.refusal(), (400, "malformed".into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_can_open_a_room() {
    let env = env("").await;
    let mut a = open_native(&env, "/v1/rooms").await;
    a.send(json!({"type": "open", "code": "words"})).await;
    let opened = a.expect("opened").await;
    assert_eq!(a.expect("joined").await["room"], opened["room"]);
    let mut b = by_code(&env, opened["code"].as_str().unwrap()).await;
    b.expect("joined").await;
    a.expect("peer_joined").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_can_need_login() {
    let env = env("open = \"login\"").await;
    assert_eq!(post_room(&env, json!({})).await.status, 401);
    for path in ["/v1/ws/", "/v1/relay/x"] {
        let answer = try_open(&env, "pair", path, &[]).await.err().expect("no upgrade");
        assert_eq!(answer.status, 401, "{path}");
    }
    let mut stranger = open_native(&env, "/v1/rooms").await;
    stranger.send(json!({"type": "open"})).await;
    stranger.expect_close(4501, "unauthenticated").await;
    let token = env.issuer.token("alice");
    let bearer = format!("Bearer {token}");
    try_open(&env, "pair", "/v1/ws/", &[("authorization", &bearer)]).await.expect("an upgrade");
    let mut alice = open_native(&env, "/v1/rooms").await;
    alice.send(json!({"type": "open", "token": token, "code": "digits"})).await;
    let opened = alice.expect("opened").await;
    // An invited peer needs none.
    let mut guest = by_code(&env, opened["code"].as_str().unwrap()).await;
    guest.expect("joined").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_login_leaves_room() {
    let env = env("open = \"login\"").await;
    let bearer = format!("Bearer {}", env.issuer.token("alice"));
    let mut peers = Vec::new();
    for path in ["/v1/ws/", "/v1/relay/x"] {
        peers.push(try_open(&env, "pair", path, &[("authorization", &bearer)]).await.expect("an upgrade"));
    }
    let mut native = open_native(&env, "/v1/rooms").await;
    native.send(json!({"type": "open", "token": env.issuer.token("alice")})).await;
    native.expect("opened").await;
    native.expect("joined").await;
    peers.push(native);
    let mut bob = open_native(&env, "/v1/rooms").await;
    bob.send(json!({"type": "open", "token": env.issuer.token("bob"), "code": "digits"})).await;
    let opened = bob.expect("opened").await;
    bob.expect("joined").await;

    let revoked =
        json!({"issuer": test_support::gateway::ISSUER, "subject": "alice", "before": test_support::unix_now()});
    env.folder.write("revoked.jsonl", &revoked.to_string());
    let toml = TestEnv::toml(&env.publisher.toml("market-data", &["*"]), "[rooms]\nopen = \"login\"\n");
    for node in env.nodes() {
        node.reload(&format!("revocations_file = \"revoked.jsonl\"\n{toml}"), &env.folder).unwrap();
    }
    for peer in &mut peers {
        let end = loop {
            match peer.receive().await {
                Received::Text(_) => {}
                end => break end,
            }
        };
        assert_eq!(end, Received::Close(4503, "revoked".into()));
    }
    let mut guest = by_code(&env, opened["code"].as_str().unwrap()).await;
    guest.expect("joined").await;
    bob.expect("peer_joined").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_can_need_signature() {
    let env = env("open = \"publisher\"").await;
    assert_eq!(post_room(&env, json!({})).await.refusal(), (401, "signature-missing".into()));
    let authority = env.gateway.authority("pair");
    let request = env.publisher.request(&authority, "POST", "/v1/rooms", Some(("application/json", b"{}")));
    let answer = test_support::http::send(env.gateway.address("pair"), request).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    join(&env, &answer.json()).await;
}
