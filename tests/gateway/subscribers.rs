//! `GET /v1/subscribe`: the commands, and what never closes a connection.

use serde_json::json;
use test_support::TestEnv;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_subscribes_many_channels() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    for n in 0..100 {
        let subscribed = alice.subscribe(&format!("c.{n}")).await;
        assert_eq!((&subscribed["offset"], &subscribed["recovered"]), (&json!(0), &json!(false)));
    }
    for n in [0, 57, 99] {
        env.publish(&format!("c.{n}"), &n.to_string()).await;
        let message = alice.expect("message").await;
        assert_eq!((&message["channel"], &message["data"]), (&json!(format!("c.{n}")), &json!(n)));
    }
    alice.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_arrives_after_unsubscribe() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("a").await;
    alice.subscribe("b").await;
    alice.send(json!({"type": "unsubscribe", "id": "u", "channel": "a"})).await;
    assert_eq!(alice.json().await, json!({"type": "unsubscribed", "id": "u", "channel": "a"}));
    env.publish("a", "1").await;
    env.publish("b", "2").await;
    assert_eq!(alice.expect("message").await["channel"], "b");
    alice.send(json!({"type": "unsubscribe", "id": "u", "channel": "a"})).await;
    alice.expect_error("not_subscribed").await;
    // The last one may go without the connection.
    alice.send(json!({"type": "unsubscribe", "id": "u", "channel": "b"})).await;
    alice.expect("unsubscribed").await;
    alice.expect_silence().await;
    let subscribed = alice.subscribe("a").await;
    assert_eq!(subscribed["offset"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_answered_without_close() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("c").await;
    let long = "x".repeat(256);
    for (command, code) in [
        (json!({"type": "subscribe", "id": "1", "channel": "c"}), "already_subscribed"),
        (json!({"type": "subscribe", "id": "1"}), "malformed"),
        (json!({"type": "subscribe", "id": "1", "channel": ""}), "channel_invalid"),
        (json!({"type": "subscribe", "id": "1", "channel": "$sys"}), "channel_invalid"),
        (json!({"type": "subscribe", "id": "1", "channel": long}), "channel_invalid"),
        (json!({"type": "unsubscribe", "id": "1", "channel": "d"}), "not_subscribed"),
        (json!({"type": "publish", "id": "1", "channel": "c", "data": 1}), "malformed"),
        (json!({"type": "Subscribe", "id": "1", "channel": "d"}), "malformed"),
        (json!({"type": "reply", "id": "1", "channel": "c", "to": "x", "data": 1}), "forbidden"),
    ] {
        alice.send(command.clone()).await;
        let error = alice.expect_error(code).await;
        assert_eq!((&error["id"], &error["temporary"]), (&json!("1"), &json!(false)), "{command}");
        assert!(error["message"].is_string());
    }
    for text in ["{}", "[]", r#"["ping","1"]"#, "1", r#"{"type":7}"#, r#"{"type":"subscribe","channel":["c"]}"#] {
        alice.send_text(text).await;
        alice.expect_error("malformed").await;
    }
    alice.send_text(&format!("{}1{}", "[".repeat(33), "]".repeat(33))).await;
    alice.expect_error("malformed").await;
    // Unknown members of a newer client are no error.
    alice.send(json!({"type": "ping", "id": "p", "new": {"a": 1}})).await;
    assert_eq!(alice.json().await, json!({"type": "pong", "id": "p"}));
    env.publish("c", "1").await;
    alice.expect("message").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_or_non_json_closes() {
    let env = TestEnv::start("").await;
    for text in ["hello", "{", "", "{\"type\":\"ping\"} x"] {
        let mut alice = env.subscriber().await;
        alice.send_text(text).await;
        alice.expect_close(4500, "malformed").await;
    }
    let mut early = env.connect().await;
    early.send_text("hello").await;
    early.expect_close(4500, "malformed").await;
    let mut alice = env.subscriber().await;
    alice.send_message(Message::binary(&b"{}"[..])).await;
    alice.expect_close(1003, "unsupported_data").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ping_is_answered_and_close_echoed() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    alice.send_message(Message::Ping(b"abc"[..].to_vec().into())).await;
    assert_eq!(alice.pong().await, b"abc");
    alice.close(4321, "bye").await;
    alice.expect_close(4321, "bye").await;
    env.await_metric("lastmile_connections", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subprotocol_is_chosen_from_offer() {
    let env = TestEnv::start("").await;
    let connect =
        async |offered: &str| env.connect_with(&[("sec-websocket-protocol", offered)]).await.expect("an upgrade");
    let mut ws = connect("other, lastmile.v1").await;
    assert_eq!(ws.answer.header("sec-websocket-protocol"), "lastmile.v1");
    ws.hello(None).await;

    let mut none = env.connect_with(&[]).await.expect("an upgrade");
    assert_eq!(none.answer.header("sec-websocket-protocol"), "");
    none.hello(None).await;

    let mut others = connect("lastmile.v2, graphql-ws").await;
    assert_eq!(others.answer.header("sec-websocket-protocol"), "");
    others.expect_close(4510, "unsupported_protocol").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channel_subscriber_limit_frees_slots() {
    let env = TestEnv::start("[[channels]]\nmatch = \"c\"\nmax_connections = 2\n").await;
    let (mut alice, mut bob, mut carol) = (env.subscriber().await, env.subscriber().await, env.subscriber().await);
    alice.subscribe("c").await;
    bob.subscribe("c").await;
    carol.subscribe_refused("c", "connection_limit").await;
    alice.send(json!({"type": "unsubscribe", "channel": "c"})).await;
    alice.expect("unsubscribed").await;
    carol.subscribe("c").await;
    alice.subscribe_refused("c", "connection_limit").await;
    // A closed connection releases its slot as well.
    drop(bob);
    env.await_metric("lastmile_connections", 2.0).await;
    alice.subscribe("c").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_subscription_limit_holds() {
    let env = TestEnv::start("[limits]\nmax_subscriptions = 2\n").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("a").await;
    alice.subscribe("b").await;
    alice.subscribe_refused("c", "limit_reached").await;
    alice.send(json!({"type": "unsubscribe", "channel": "a"})).await;
    alice.expect("unsubscribed").await;
    alice.subscribe("c").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flooding_client_is_closed() {
    let env = TestEnv::start("[limits]\nmax_commands_per_second = 1\n").await;
    let mut alice = env.subscriber().await;
    for _ in 0..30 {
        alice.feed(r#"{"type":"ping"}"#.into()).await;
    }
    alice.flush().await;
    let mut pongs = 0;
    let end = loop {
        match alice.next().await {
            Ok(_) => pongs += 1,
            Err(end) => break end,
        }
    };
    assert_eq!(end, Some((4004, "rate_limited".into())));
    assert!((5..15).contains(&pongs), "{pongs}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_origin_gets_no_socket() {
    let env = TestEnv::start("").await;
    let authority = env.gateway.authority("public");
    for origin in ["https://evil.example.com", "null", &format!("http://{authority}.evil.com"), "http://127.0.0.1:1"] {
        let refused = env.connect_with(&[("origin", origin)]).await.err().expect("a refusal");
        assert_eq!(refused.refusal(), (403, "origin-forbidden".into()), "{origin}");
    }
    let mut own = env.connect_with(&[("origin", &format!("http://{authority}"))]).await.expect("an upgrade");
    own.hello(None).await;
}
