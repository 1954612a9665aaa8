//! Limits are those of the channels, the publishers and the gateway.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{HASH, basic, connect, publish, request, response, send, start, start_open, subscribe};
use test_support::TestEnv;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_limit_follows_channel_or_default() {
    let env = start(
        r#"
        [[channels]]
        match = "small"
        max_message_bytes = 100
        [channel_defaults]
        max_message_bytes = 0
        "#,
    )
    .await;
    let of = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    for (topic, most) in [("small", 100), ("other", 262_144)] {
        publish(&env, topic, &of(most)).await;
        let answer = send(&env, request(&env, &format!("/api/v1/event/{topic}"), of(most + 1))).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (413, "A payload reached size limit."));
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publisher_rate_and_channel_limits_hold() {
    let env = start(&format!(
        "[publishers.slow]\nbasic = {{ username = \"slow\", password_argon2 = \"{HASH}\" }}\nchannels = [\"*\"]\n\
         rate_limit_per_second = 1\n[[channels]]\nmatch = \"once\"\nmax_messages = 1\n"
    ))
    .await;
    let post = async |username: &str, topic: &str| {
        let mut request = request(&env, &format!("/api/v1/event/{topic}"), "1");
        request.headers_mut().insert("authorization", basic(username, "password").parse().unwrap());
        send(&env, request).await
    };
    // At once, so that no second passes in between.
    let (one, other) = tokio::join!(post("slow", "a"), post("slow", "a"));
    let (taken, refused) = if one.status == 204 { (one, other) } else { (other, one) };
    assert_eq!(taken.status, 204);
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (429, "1"));
    assert_eq!(post("admin", "once").await.status, 204);
    assert!(post("admin", "once").await.status.is_client_error());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limited_subscription_is_not_acknowledged() {
    let env = start(
        r#"
        [channel_defaults]
        subscribers = "anyone"
        max_connections = 1
        [limits]
        max_subscriptions = 2
        "#,
    )
    .await;
    let (mut one, mut other) = (connect(&env).await, connect(&env).await);
    assert!(subscribe(&mut one, "t").await);
    assert!(!subscribe(&mut other, "t").await);
    assert!(subscribe(&mut one, "u").await);
    assert!(!subscribe(&mut one, "v").await);
    // Again is not one more.
    assert!(subscribe(&mut one, "t").await);
    one.send(json!({"type": "Unsubscribe", "request_id": "r", "topic": "t"})).await;
    assert_eq!(one.text().await, response("r", false, "t"));
    assert!(subscribe(&mut other, "t").await);
    assert!(subscribe(&mut one, "v").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_message_closes_connection() {
    let env = start_open().await;
    let mut ws = connect(&env).await;
    let ping = r#"{"type":"Ping"}"#;
    ws.send_text(&format!("{ping}{}", " ".repeat(65_536 - ping.len()))).await;
    assert_eq!(ws.pong().await, b"");
    ws.send_message(Message::text(" ".repeat(65_537))).await;
    ws.expect_close(1009, "message_too_big").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flooding_client_is_closed() {
    let env = start("[limits]\nmax_commands_per_second = 1\n").await;
    let mut ws = connect(&env).await;
    for _ in 0..100 {
        ws.feed(r#"{"type":"Ping"}"#.into()).await;
    }
    ws.flush().await;
    ws.expect_close(4004, "rate_limited").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_is_announced() {
    let env = start_open().await;
    let mut ws = connect(&env).await;
    assert!(subscribe(&mut ws, "t").await);
    let TestEnv { gateway, .. } = env;
    let drained = gateway.shut_down();
    ws.expect_close(4000, "draining").await;
    drop(ws);
    drained.await.unwrap();
}
