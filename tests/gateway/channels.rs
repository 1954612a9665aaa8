//! `PUT`, `GET` and `DELETE /v1/channels/{channel}`.

use serde_json::{Value, json};
use test_support::{Answer, TestEnv};

const RULES: &str = "[[channels]]\nmatch = \"c.*\"\nmax_connections = 10\nmax_messages = 100\n";

async fn put(env: &TestEnv, channel: &str, limits: Value) -> Answer {
    let body = limits.to_string();
    env.call("PUT", &format!("/v1/channels/{channel}"), Some(("application/json", body.as_bytes()))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channel_is_created_once_and_narrowed() {
    let env = TestEnv::start(RULES).await;
    let limits = json!({"max_messages": 5, "lifespan_secs": 600});
    let created = put(&env, "c.1", limits.clone()).await;
    assert_eq!(created.status, 201, "{created:?}");
    let state = created.json();
    assert_eq!((&state["channel"], &state["offset"], &state["connections"]), (&json!("c.1"), &json!(0), &json!(0)));
    assert_eq!(
        state["limits"],
        json!({"max_connections": 10, "max_messages": 5, "max_data_bytes": 0, "max_message_bytes": 65536,
            "lifespan_secs": 600})
    );
    assert_eq!(put(&env, "c.1", limits).await.status, 200);
    assert_eq!(put(&env, "c.1", json!({"max_messages": 6})).await.refusal(), (409, "channel-exists".into()));

    // 0 is no limit, which is wider than any.
    for wider in [json!({"max_messages": 101}), json!({"max_connections": 11}), json!({"max_messages": 0})] {
        assert_eq!(put(&env, "c.2", wider).await.refusal(), (403, "channel-forbidden".into()));
    }
    assert_eq!(env.call("GET", "/v1/channels/c.2", None).await.refusal(), (404, "channel-unknown".into()));

    for bad in [json!({"max_mesages": 1}), json!({"max_messages": -1}), json!([]), json!([1])] {
        assert_eq!(put(&env, "c.3", bad).await.refusal(), (400, "malformed".into()));
    }
    assert_eq!(env.call("PUT", "/v1/channels/c.3", None).await.status, 201, "no body declares nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channel_state_counts_messages_and_bytes() {
    let env = TestEnv::start(RULES).await;
    assert_eq!(env.call("GET", "/v1/channels/c.1", None).await.refusal(), (404, "channel-unknown".into()));
    let mut alice = env.subscriber().await;
    alice.subscribe("c.1").await;
    env.publish("c.1", "1234").await;
    let answer = env.publish("c.1", "12").await;
    let state = env.call("GET", "/v1/channels/c.1", None).await.json();
    assert_eq!((&state["offset"], &state["messages"], &state["data_bytes"]), (&json!(2), &json!(2), &json!(6)));
    assert_eq!((&state["connections"], &state["epoch"]), (&json!(1), &answer["epoch"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_channel_notifies_subscribers() {
    let env = TestEnv::start(RULES).await;
    let (mut alice, mut bob) = (env.subscriber().await, env.subscriber().await);
    alice.subscribe("c.1").await;
    bob.subscribe("c.1").await;
    bob.subscribe("c.2").await;
    let before = env.publish("c.1", "1").await;

    let answer = env.call("DELETE", "/v1/channels/c.1", None).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0));
    assert_eq!(env.call("DELETE", "/v1/channels/c.1", None).await.refusal(), (404, "channel-unknown".into()));

    let ended = json!({"type": "unsubscribed", "channel": "c.1", "reason": "channel_closed", "code": 4504});
    for subscriber in [&mut alice, &mut bob] {
        assert_eq!(subscriber.expect("message").await["offset"], 1, "what was accepted before comes before");
        assert_eq!(subscriber.json().await, ended);
    }
    // Its last channel ended; the other one's did not.
    alice.expect_close(4504, "channel_closed").await;
    bob.expect_silence().await;

    // A channel of the same name is another one.
    bob.subscribe("c.1").await;
    let after = env.publish("c.1", "2").await;
    assert_eq!(after["offset"], 1);
    assert_ne!(after["epoch"], before["epoch"]);
    assert_eq!(bob.expect("message").await["data"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_subscription_frees_its_slot() {
    let env =
        TestEnv::start("[[channels]]\nmatch = \"c.*\"\nmax_connections = 1\n[limits]\nmax_subscriptions = 2\n").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("c.1").await;
    alice.subscribe("c.2").await;
    assert_eq!(env.call("DELETE", "/v1/channels/c.1", None).await.status, 204);
    alice.expect("unsubscribed").await;

    // The channel is made anew and has room for one, and so has the connection.
    let mut bob = env.subscriber().await;
    bob.subscribe("c.1").await;
    let state = env.call("GET", "/v1/channels/c.1", None).await.json();
    assert_eq!(state["connections"], 1);
    alice.subscribe("c.3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publisher_uses_own_channels_only() {
    let env = TestEnv::start("").await;
    let other = test_support::TestPublisher::new();
    let publishers = env.publisher.toml("market-data", &["*"]) + &other.toml("other", &["alerts.*", "status"]);
    env.reload(&publishers, "");
    let authority = env.gateway.authority("publish");
    let call = async |method: &str, path: &str, body: Option<(&str, &[u8])>| {
        env.send(other.request(&authority, method, path, body)).await
    };
    let json = Some(("application/json", b"1".as_slice()));
    assert_eq!(call("POST", "/v1/channels/alerts.fire/messages", json).await.status, 200);
    assert_eq!(call("POST", "/v1/channels/status/messages", json).await.status, 200);
    let forbidden = (403, "channel-forbidden".to_owned());
    for channel in ["prices.btc", "alerts", "status2", "Status", "xalerts.fire"] {
        let path = format!("/v1/channels/{channel}");
        assert_eq!(call("POST", &format!("{path}/messages"), json).await.refusal(), forbidden, "{channel}");
        assert_eq!(call("PUT", &path, None).await.refusal(), forbidden);
        assert_eq!(call("GET", &path, None).await.refusal(), forbidden);
        assert_eq!(call("DELETE", &path, None).await.refusal(), forbidden);
    }
}
