//! A flight's clients: the transcript of the older system, silence, mistakes, and who may listen.

use std::time::Instant;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::client::{check, connect, expect_silence, publish, response, start, start_open, subscribe};
use test_support::{TestEnv, Ws, http, with_timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flock_transcript_is_reproduced() {
    let env = start_open().await;
    let mut ws = connect(&env).await;
    let subscribed = r#"{"request_id":"r1","subscribed":true,"topic":"t1","type":"response"}"#;
    let not_subscribed = r#"{"request_id":"r1","subscribed":false,"topic":"t1","type":"response"}"#;
    check(&mut ws, r#"{"type":"Unsubscribe","request_id":"r1","topic":"t1"}"#, not_subscribed).await;
    check(&mut ws, r#"{"type":"Subscribe","request_id":"r1","topic":"t1"}"#, subscribed).await;
    check(&mut ws, r#"{"type":"Subscribe","request_id":"r1","topic":"t1","more":[]}"#, subscribed).await;
    publish(&env, "t1", r#"{"message":"hello","b":1,"a":2}"#).await;
    // Byte for byte: keys stay in the publisher's order and numbers as they were written.
    assert_eq!(ws.text().await, r#"{"payload":{"message":"hello","b":1,"a":2},"topic":"t1","type":"event"}"#);
    for payload in ["1.50", "null", "\"text é\"", "[1, 2]", "12345678901234567890123"] {
        publish(&env, "t1", payload).await;
        assert_eq!(ws.text().await, format!(r#"{{"payload":{payload},"topic":"t1","type":"event"}}"#));
    }
    check(&mut ws, r#"{"type":"Unsubscribe","request_id":"r1","topic":"t1"}"#, not_subscribed).await;
    publish(&env, "t1", "1").await;
    expect_silence(&mut ws).await;

    // The browser's client.
    let sent = r#"{"request_id":"subscribe_message","topic":"t2","type":"Subscribe"}"#;
    check(&mut ws, sent, &response("subscribe_message", true, "t2")).await;
    let sent = r#"{"request_id":"unsubscribe_message","topic":"t2","type":"Unsubscribe"}"#;
    check(&mut ws, sent, &response("unsubscribe_message", false, "t2")).await;
    ws.send_text(r#"{"type":"Ping"}"#).await;
    assert_eq!(ws.pong().await, b"");
    ws.send_message(Message::Ping(b"x".as_slice().into())).await;
    assert_eq!(ws.pong().await, b"x");
    // Not understood there, and ignored.
    ws.send_message(Message::binary(&b"x"[..])).await;
    expect_silence(&mut ws).await;
    ws.close(4321, "bye").await;
    ws.expect_close(1000, "closed by server").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_message_closes_with_parser_text() {
    let env = start_open().await;
    let unknown = "unknown variant `Foo`, expected one of `Subscribe`, `Unsubscribe`, `Ping` at line 1 column 13";
    for (sent, reason) in [
        ("x", "expected value at line 1 column 1"),
        ("{}", "missing field `type` at line 1 column 2"),
        (r#"{"type":"Subscribe","topic":"t"}"#, "missing field `request_id`"),
        (r#"{"type":"Foo"}"#, unknown),
        (r#"{"type":"subscribe"}"#, &unknown.replace("Foo", "subscribe").replace("13", "19")),
    ] {
        let mut ws = connect(&env).await;
        ws.send_text(sent).await;
        ws.expect_close(1007, reason).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_reason_is_cut_at_characters() {
    let env = start_open().await;
    for filler in ["x".repeat(300), "é".repeat(300), format!("x{}", "é".repeat(300)), "🦆".repeat(300)] {
        let mut ws = connect(&env).await;
        ws.send(json!({"type": filler})).await;
        match ws.next().await {
            Err(Some((1007, reason))) => {
                assert!((120..=123).contains(&reason.len()), "{reason}");
                assert!(format!("unknown variant `{filler}").starts_with(&reason));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_client_is_closed_without_ping() {
    let env = start_open().await;
    let stream = tokio::net::TcpStream::connect(env.gateway.authority("flight")).await.unwrap();
    let (mut silent, began) = (stream, Instant::now());
    let head = "GET /ws HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    silent.write_all(head.as_bytes()).await.unwrap();
    let mut speaking = connect(&env).await;
    assert!(subscribe(&mut speaking, "t").await);
    let mut came = Vec::new();
    let ended = async {
        let mut chunk = [0; 1024];
        // The first read is the answer to the upgrade.
        while !came.ends_with(b"ping timeout") {
            let read = silent.read(&mut chunk).await.unwrap();
            assert!(read > 0, "{came:?}");
            came.extend_from_slice(&chunk[..read]);
        }
    };
    let speaks = async {
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            speaking.send_text(r#"{"type":"Ping"}"#).await;
        }
    };
    tokio::select! {
        () = async { tokio::time::timeout(std::time::Duration::from_secs(120), ended).await.expect("a Close") } => {}
        () = speaks => {}
    }
    assert!((30..90).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let body = came.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(&came[body..], b"\x88\x0e\x03\xe8ping timeout");
    publish(&env, "t", "1").await;
    assert_eq!(speaking.text().await, r#"{"payload":1,"topic":"t","type":"event"}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn non_upgrade_gets_plain_answer() {
    let env = start_open().await;
    let address = env.gateway.address("flight");
    assert_eq!(http::get(address, "/ws").await.status, 426);
    assert_eq!(http::get(address, "/").await.status, 404);
    assert_eq!(http::get(address, "/wss").await.status, 404);
    assert_eq!(http::get(address, "/v1/subscribe").await.status, 404);
    let post = ::http::Request::post("/ws").header("host", "a").body(bytes::Bytes::new()).unwrap();
    assert_eq!(http::send(address, post).await.status, 405);
    // The publishers' paths are elsewhere, and the other way round.
    let post = ::http::Request::post("/api/v1/event/t").header("host", "a").body(bytes::Bytes::new()).unwrap();
    assert_eq!(http::send(address, post).await.status, 404);
    assert_eq!(http::get(env.gateway.address("control"), "/ws").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_origin_needs_listing() {
    let listener =
        "[listeners.pages]\naddress = \"127.0.0.1:0\"\nroles = [\"flock\"]\norigins = [\"https://app.example\"]";
    let env = start(listener).await;
    let open = async |origin: &str| {
        let request = Ws::request(&env.gateway.authority("pages"), "/ws", &[("origin", origin)]);
        Ws::open(env.gateway.address("pages"), request).await.map(|_| ()).map_err(|answer| answer.status.as_u16())
    };
    assert_eq!(open("https://app.example").await, Ok(()));
    assert_eq!(open("https://evil.example").await, Err(403));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_gets_open_channels_only() {
    let env = start(
        r#"
        [listeners.inside]
        address = "127.0.0.1:0"
        roles = ["flock"]
        subscribers = "authenticated"
        [[channels]]
        match = "open.*"
        subscribers = "anyone"
        [[channels]]
        match = "secret.*"
        subscribers = { scope = "read" }
        "#,
    )
    .await;
    let mut outside = connect(&env).await;
    assert!(subscribe(&mut outside, "open.a").await);
    assert!(!subscribe(&mut outside, "other").await);
    assert!(!subscribe(&mut outside, "secret.a").await);
    let request = Ws::request(&env.gateway.authority("inside"), "/ws", &[]);
    let mut inside = Ws::open(env.gateway.address("inside"), request).await.expect("an upgrade");
    assert!(subscribe(&mut inside, "open.a").await);
    assert!(subscribe(&mut inside, "other").await);
    assert!(!subscribe(&mut inside, "secret.a").await);
    for topic in ["secret.a", "other", "open.a"] {
        publish(&env, topic, "1").await;
    }
    assert_eq!(inside.text().await, r#"{"payload":1,"topic":"other","type":"event"}"#);
    for ws in [&mut outside, &mut inside] {
        assert_eq!(ws.text().await, r#"{"payload":1,"topic":"open.a","type":"event"}"#);
        expect_silence(ws).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_change_closes_flock_subscription() {
    let env = TestEnv::start(&listener_with("anyone")).await;
    let mut ws = connect(&env).await;
    assert!(subscribe(&mut ws, "t").await);
    env.reload(&env.publisher.toml("market-data", &["*"]), &listener_with("authenticated"));
    ws.expect_close(4502, "forbidden").await;
    assert!(!subscribe(&mut connect(&env).await, "t").await);
}

fn listener_with(subscribers: &str) -> String {
    let listener = "[listeners.flight]\naddress = \"127.0.0.1:0\"\nroles = [\"flock\"]\n";
    format!("{listener}[channel_defaults]\nsubscribers = \"{subscribers}\"\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_are_shared_with_native_protocol() {
    let env = start_open().await;
    let (mut ws, mut alice) = (connect(&env).await, env.subscriber().await);
    alice.subscribe("t").await;
    assert!(subscribe(&mut ws, "t").await);
    env.publish("t", r#"{"b": 1.50}"#).await;
    assert_eq!(ws.text().await, r#"{"payload":{"b": 1.50},"topic":"t","type":"event"}"#);
    alice.expect("message").await;
    env.post("t", "text/plain", b"hi").await;
    assert_eq!(ws.text().await, r#"{"payload":"hi","topic":"t","type":"event"}"#);
    alice.expect("message").await;
    publish(&env, "t", r#"{ "x": 1 }"#).await;
    let message = alice.text().await;
    assert!(message.contains(r#""publisher":"older","data":{ "x": 1 }}"#), "{message}");
    assert_eq!(ws.text().await, r#"{"payload":{ "x": 1 },"topic":"t","type":"event"}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_publications_arrive_in_order() {
    let env = start_open().await;
    let mut all = [connect(&env).await, connect(&env).await];
    for ws in &mut all {
        assert!(subscribe(ws, "t").await);
    }
    // One connection, as a client that keeps it alive.
    let stream = http::connect(env.gateway.address("control")).await;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    for n in 0..1000 {
        let request = crate::client::request(&env, "/api/v1/event/t", n.to_string());
        with_timeout("room for a request", sender.ready()).await.unwrap();
        let answer =
            with_timeout("an answer", sender.send_request(request.map(http_body_util::Full::new))).await.unwrap();
        assert_eq!(answer.status(), 204);
    }
    for ws in &mut all {
        for n in 0..1000 {
            assert_eq!(ws.text().await, format!(r#"{{"payload":{n},"topic":"t","type":"event"}}"#));
        }
        expect_silence(ws).await;
    }
}
