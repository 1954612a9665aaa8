//! How a channel ends by its limits: each with its own reason and code, for subscribers and publishers.

use serde_json::json;
use test_support::{TestEnv, Ws};

const RULES: &str = r#"
[[channels]]
match = "messages"
max_messages = 2
[[channels]]
match = "data"
max_data_bytes = 8
[[channels]]
match = "life"
lifespan_secs = 6
"#;

/// A subscriber of the channel alone, and one that listens to another one too.
async fn subscribers(env: &TestEnv, channel: &str) -> (Ws, Ws) {
    let (mut alone, mut both) = (env.subscriber().await, env.subscriber().await);
    alone.subscribe(channel).await;
    both.subscribe("other").await;
    both.subscribe(channel).await;
    (alone, both)
}

async fn expect_end(env: &TestEnv, channel: &str, subscribers: (Ws, Ws), code: u16, reason: &str) {
    let (mut alone, mut both) = subscribers;
    let ended = json!({"type": "unsubscribed", "channel": channel, "reason": reason, "code": code});
    assert_eq!(alone.json().await, ended);
    alone.expect_close(code, reason).await;
    assert_eq!(both.json().await, ended);
    env.publish("other", "\"goes on\"").await;
    assert_eq!(both.expect("message").await["channel"], "other");

    // It stays ended for those who come, until a publisher makes it anew.
    assert_eq!(env.call("GET", &format!("/v1/channels/{channel}"), None).await.problem(), "channel-unknown");
    let put = env.call("PUT", &format!("/v1/channels/{channel}"), None).await;
    assert_eq!(put.status, 201, "{put:?}");
    let mut anew = env.subscriber().await;
    assert_eq!(anew.subscribe(channel).await["offset"], 0);
    assert_eq!(env.publish(channel, "1").await["offset"], 1);
    assert_eq!(anew.expect("message").await["offset"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_limit_ends_channel() {
    let env = TestEnv::start(RULES).await;
    let (mut alone, mut both) = subscribers(&env, "messages").await;
    for n in 1..=2 {
        env.publish("messages", "0").await;
        assert_eq!(alone.expect("message").await["offset"], n);
        assert_eq!(both.expect("message").await["offset"], n);
    }
    alone.expect_silence().await;
    let refused = env.post("messages", "application/json", b"0").await;
    assert_eq!(refused.refusal(), (429, "limit-reached".into()));
    let again = env.post("messages", "application/json", b"0").await;
    assert_eq!(again.refusal(), (429, "limit-reached".into()));
    env.subscriber().await.subscribe_refused("messages", "limit_reached").await;
    expect_end(&env, "messages", (alone, both), 4506, "message_limit").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn byte_limit_ends_channel() {
    let env = TestEnv::start(RULES).await;
    let (mut alone, mut both) = subscribers(&env, "data").await;
    for _ in 0..2 {
        env.publish("data", "1234").await;
        alone.expect("message").await;
        both.expect("message").await;
    }
    let mut publisher = env.publisher_ws().await;
    publisher.send(json!({"type": "publish", "id": "1", "channel": "data", "data": 1})).await;
    publisher.expect_error("limit_reached").await;
    expect_end(&env, "data", (alone, both), 4507, "data_limit").await;
    publisher.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lifespan_ends_channel() {
    let env = TestEnv::start(RULES).await;
    let began = std::time::Instant::now();
    let subscribers = subscribers(&env, "life").await;
    expect_end(&env, "life", subscribers, 4505, "lifespan_expired").await;
    assert!(began.elapsed() >= std::time::Duration::from_secs(6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publisher_is_sent_lifespan_expired() {
    let env = TestEnv::start(RULES).await;
    env.publish("life", "1").await;
    let answer = test_support::eventually("the end of the channel", async || {
        let answer = env.post("life", "application/json", b"1").await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(answer.refusal(), (409, "channel-ended".into()));
    env.subscriber().await.subscribe_refused("life", "channel_ended").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn narrowed_limit_ends_channel() {
    let env = TestEnv::start("").await;
    let body = Some(("application/json", br#"{"max_messages":1,"max_message_bytes":4}"#.as_slice()));
    assert_eq!(env.call("PUT", "/v1/channels/c", body).await.status, 201);
    assert_eq!(env.post("c", "application/json", b"12345").await.refusal(), (413, "message-too-large".into()));
    env.publish("c", "1234").await;
    assert_eq!(env.post("c", "application/json", b"1").await.refusal(), (429, "limit-reached".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channel_count_is_limited() {
    let env = TestEnv::start("[limits]\nmax_channels = 2\n").await;
    env.publish("a", "1").await;
    env.publish("b", "1").await;
    assert_eq!(env.post("c", "application/json", b"1").await.refusal(), (429, "limit-reached".into()));
    assert_eq!(env.call("DELETE", "/v1/channels/a", None).await.status, 204);
    env.publish("c", "1").await;
}
