//! Topics are any strings: they are delivered, and have no effect elsewhere.

use crate::client::{connect, expect_silence, publish, request, response, send, start, start_open, subscribe};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

const HOSTILE: [&str; 22] = [
    "",
    "a/b/c",
    "/",
    "//",
    "sp ace",
    "é",
    "what?",
    "a?host=evil&port=1",
    "#fragment",
    "../subscription",
    "../subscription?host=127.0.0.1&port=8081",
    "..",
    "%2e%2e%2fsubscription",
    "%",
    "🦆",
    "a\nb\r\n\r\nGET / HTTP/1.1",
    "nul\0",
    "\u{202e}reversed",
    "$sys",
    "$flock:",
    "\"quoted\\\"",
    "*",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_reach_their_subscribers_only() {
    let env = start_open().await;
    let mut all = connect(&env).await;
    let mut each = Vec::new();
    for topic in HOSTILE {
        let mut ws = connect(&env).await;
        assert!(subscribe(&mut ws, topic).await, "{topic:?}");
        assert!(subscribe(&mut all, topic).await, "{topic:?}");
        each.push(ws);
    }
    for topic in HOSTILE {
        publish(&env, &utf8_percent_encode(topic, NON_ALPHANUMERIC).to_string(), &json!(topic).to_string()).await;
    }
    for (topic, ws) in HOSTILE.iter().zip(&mut each) {
        let event = json!({"payload": topic, "topic": topic, "type": "event"}).to_string();
        assert_eq!(ws.text().await, event);
        assert_eq!(all.text().await, event);
        expect_silence(ws).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn path_is_decoded_once_without_query() {
    let env = start_open().await;
    let mut ws = connect(&env).await;
    for (path, topic) in
        [("a/b%20c?d", "a/b c"), ("a%2Fb", "a/b"), ("%252F", "%2F"), ("%C3%A9", "é"), ("", ""), ("a+b", "a+b")]
    {
        assert!(subscribe(&mut ws, topic).await);
        publish(&env, path, "1").await;
        assert_eq!(ws.text().await, json!({"payload": 1, "topic": topic, "type": "event"}).to_string());
        ws.send(json!({"type": "Unsubscribe", "request_id": "u", "topic": topic})).await;
        assert_eq!(ws.text().await, response("u", false, topic));
    }
    let answer = send(&env, request(&env, "/api/v1/event/%ff", "1")).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (400, "the topic is not UTF-8"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traversing_topic_takes_no_subscription() {
    let env = start_open().await;
    let (mut victim, mut attacker) = (connect(&env).await, connect(&env).await);
    assert!(subscribe(&mut victim, "t").await);
    for topic in ["../subscription", "../subscription?host=127.0.0.1&port=8081", "../event/t"] {
        assert!(subscribe(&mut attacker, topic).await);
        attacker.send(json!({"type": "Unsubscribe", "request_id": "u", "topic": topic})).await;
        assert_eq!(attacker.text().await, response("u", false, topic));
    }
    publish(&env, "t", "1").await;
    assert_eq!(victim.text().await, r#"{"payload":1,"topic":"t","type":"event"}"#);
    expect_silence(&mut attacker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topic_length_is_bounded() {
    let env = start_open().await;
    let mut ws = connect(&env).await;
    let longest = "é".repeat(512);
    assert!(subscribe(&mut ws, &longest).await);
    publish(&env, &"%C3%A9".repeat(512), "1").await;
    assert_eq!(ws.text().await, json!({"payload": 1, "topic": longest, "type": "event"}).to_string());
    assert!(!subscribe(&mut ws, &format!("{longest}x")).await);
    let answer = send(&env, request(&env, &format!("/api/v1/event/{}", "x".repeat(1025)), "1")).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (400, "the topic is too long"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_spelling_bypasses_no_rule() {
    let env = start(
        r#"
        [[channels]]
        match = "secret*"
        subscribers = { scope = "read" }
        [[channels]]
        match = "$flock:hidden*"
        [[channels]]
        match = "*"
        subscribers = "anyone"
        "#,
    )
    .await;
    let mut ws = connect(&env).await;
    assert!(!subscribe(&mut ws, "secret").await);
    // Another channel, without the publications of the first.
    assert!(subscribe(&mut ws, "secret\0").await);
    assert!(subscribe(&mut ws, "%73ecret").await);
    publish(&env, "secret", "1").await;
    expect_silence(&mut ws).await;
    // Rules can name what our own protocol cannot.
    assert!(!subscribe(&mut ws, "hidden\0").await);
    assert!(subscribe(&mut ws, "$flock:hidden\0").await);
    // Our own protocol cannot go where only topics go.
    let mut alice = env.subscriber().await;
    alice.subscribe_refused("$flock:", "channel_invalid").await;
    assert_eq!(env.post("$flock:", "application/json", b"1").await.refusal(), (400, "channel-invalid".into()));
}
