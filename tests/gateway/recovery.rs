//! `since` and `backlog`: coming back without missing anything, or knowing that something is missing.

use serde_json::{Value, json};
use test_support::TestEnv;

const RULES: &str = "[[channels]]\nmatch = \"c\"\nbacklog_messages = 5\n";

async fn world_with(publications: u64) -> (TestEnv, Value) {
    let env = TestEnv::start(RULES).await;
    let mut epoch = Value::Null;
    for n in 1..=publications {
        epoch = env.publish("c", &n.to_string()).await["epoch"].clone();
    }
    (env, epoch)
}

/// Subscribes with `more`; checks `recovered` and the offsets that follow.
async fn check(env: &TestEnv, more: Value, recovered: bool, offsets: std::ops::Range<u64>) {
    let mut alice = env.subscriber().await;
    let subscribed = alice.subscribe_with("c", more.clone()).await;
    assert_eq!((&subscribed["recovered"], &subscribed["offset"]), (&json!(recovered), &json!(8)), "{more}");
    for offset in offsets {
        let message = alice.expect("message").await;
        assert_eq!((&message["offset"], &message["data"]), (&json!(offset), &json!(offset)), "{more}");
    }
    alice.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovered_only_if_complete() {
    let (env, epoch) = world_with(8).await;
    // 4 to 8 are retained.
    let since = |offset: u64| json!({"since": {"epoch": epoch, "offset": offset}});
    check(&env, since(8), true, 9..9).await;
    check(&env, since(5), true, 6..9).await;
    check(&env, since(3), true, 4..9).await;
    check(&env, since(2), false, 4..9).await;
    check(&env, since(0), false, 4..9).await;
    check(&env, since(9), false, 4..9).await;
    check(&env, json!({"since": {"epoch": "another", "offset": 7}}), false, 4..9).await;
    check(&env, json!({"backlog": 2}), true, 7..9).await;
    check(&env, json!({"backlog": 5}), true, 4..9).await;
    check(&env, json!({"backlog": 6}), false, 4..9).await;
    check(&env, json!({"backlog": u64::MAX}), false, 4..9).await;
    check(&env, json!({"backlog": 0}), true, 9..9).await;
    check(&env, json!({}), false, 9..9).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_resumes_at_its_position() {
    let env = TestEnv::start(RULES).await;
    let mut alice = env.subscriber().await;
    alice.subscribe("c").await;
    env.publish("c", "1").await;
    let last = alice.expect("message").await;
    drop(alice);
    env.publish("c", "2").await;
    env.publish("c", "3").await;
    let mut alice = env.subscriber().await;
    let since = json!({"since": {"epoch": last["epoch"], "offset": last["offset"]}});
    let subscribed = alice.subscribe_with("c", since).await;
    assert_eq!(subscribed["recovered"], true);
    env.publish("c", "4").await;
    for data in 2..=4 {
        assert_eq!(alice.expect("message").await["data"], data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_expires_by_age() {
    let env = TestEnv::start("[[channels]]\nmatch = \"c\"\nbacklog_messages = 5\nbacklog_secs = 1\n").await;
    let epoch = env.publish("c", "1").await["epoch"].clone();
    test_support::eventually("the backlog to grow old", async || {
        let mut alice = env.subscriber().await;
        let subscribed = alice.subscribe_with("c", json!({"since": {"epoch": epoch, "offset": 0}})).await;
        let recovered = subscribed["recovered"].as_bool().unwrap();
        if recovered {
            assert_eq!(alice.expect("message").await["data"], 1);
        }
        alice.expect_silence().await;
        (!recovered).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_position_is_refused() {
    let (env, epoch) = world_with(1).await;
    let mut alice = env.subscriber().await;
    for more in [
        json!({"since": {"epoch": epoch}}),
        json!({"since": {"epoch": epoch, "offset": -1}}),
        json!({"since": "x"}),
        json!({"backlog": -1}),
        json!({"backlog": "1"}),
    ] {
        let mut command = json!({"type": "subscribe", "id": "1", "channel": "c"});
        command.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        alice.send(command).await;
        alice.expect_error("malformed").await;
    }
    alice.subscribe("c").await;
}
