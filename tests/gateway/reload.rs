//! A new policy for a running gateway: removed rights end at once, the rest continues.

use serde_json::json;
use test_support::{TestEnv, TestPublisher, Ws};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_key_is_cut_new_key_works() {
    let env = TestEnv::start("").await;
    let (mut removed, new) = (env.publisher_ws().await, TestPublisher::new());
    let keeps = TestPublisher::new();
    env.reload(&(env.publisher.toml("market-data", &["*"]) + &keeps.toml("keeps", &["*"])), "");
    let mut kept = env.open_publisher(&keeps).await.expect("an upgrade");
    kept.expect("welcome").await;
    let refused = env.open_publisher(&new).await.err().expect("a refusal");
    assert_eq!(refused.refusal(), (401, "key-unknown".into()));

    env.reload(&(new.toml("new", &["*"]) + &keeps.toml("keeps", &["*"])), "");
    removed.expect_close(4503, "revoked").await;
    assert_eq!(env.post("c", "application/json", b"1").await.refusal(), (401, "key-unknown".into()));
    kept.expect_silence().await;
    let mut ws = env.open_publisher(&new).await.expect("an upgrade");
    assert_eq!(ws.expect("welcome").await["principal"], "new");
    assert_eq!(env.metric("lastmile_reloads_total").await, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_publisher_follows_new_channels() {
    let env = TestEnv::start("").await;
    let mut ws = env.publisher_ws().await;
    ws.send(json!({"type": "publish", "channel": "a", "data": 1})).await;
    ws.expect("published").await;
    env.reload(&env.publisher.toml("market-data", &["b"]), "");
    test_support::eventually("the new rules", async || {
        ws.send(json!({"type": "publish", "channel": "a", "data": 1})).await;
        let answer = ws.json().await;
        (answer["code"] == "channel_forbidden").then_some(())
    })
    .await;
    ws.send(json!({"type": "publish", "channel": "b", "data": 1})).await;
    ws.expect("published").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn narrowed_rule_ends_subscriptions() {
    let publisher_toml = |env: &TestEnv| env.publisher.toml("market-data", &["*"]);
    let env = TestEnv::start("[[channels]]\nmatch = \"*\"\nsubscribers = \"anyone\"\n").await;
    let mut anonymous = env.anonymous().await;
    let mut alice = env.subscriber().await;
    for ws in [&mut anonymous, &mut alice] {
        ws.subscribe("a").await;
        ws.subscribe("b").await;
    }
    env.reload(
        &publisher_toml(&env),
        "[[channels]]\nmatch = \"a\"\n[[channels]]\nmatch = \"*\"\nsubscribers = \"anyone\"\n",
    );
    let ended = json!({"type": "unsubscribed", "channel": "a", "reason": "forbidden", "code": 4502});
    assert_eq!(anonymous.json().await, ended);
    anonymous.subscribe_refused("a", "unauthenticated").await;
    env.publish("a", "1").await;
    env.publish("b", "2").await;
    assert_eq!(anonymous.expect("message").await["channel"], "b");
    anonymous.expect_silence().await;
    assert_eq!(alice.expect("message").await["channel"], "a");
    assert_eq!(alice.expect("message").await["channel"], "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_issuer_tokens_are_refused() {
    let env = TestEnv::start("").await;
    let token = env.issuer.token("alice");
    let mut before = env.connect().await;
    before.hello(Some(&token)).await;
    before.subscribe("c").await;
    let other = test_support::TestIssuer::new("https://other.example.com");
    env.folder.write("other.json", &other.jwks());
    let toml = TestEnv::toml(&env.publisher.toml("market-data", &["*"]), "")
        .replace(test_support::gateway::ISSUER, "https://other.example.com")
        .replace("sso.json", "other.json");
    env.gateway.reload(&toml, &env.folder).unwrap();

    let mut after = env.connect().await;
    after.send(json!({"type": "hello", "token": token})).await;
    after.expect_close(4501, "unauthenticated").await;
    let mut others = env.connect().await;
    others.hello(Some(&other.token("alice"))).await;

    // A session of the removed issuer has no right to stay.
    before.expect_close(4503, "revoked").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_configuration_changes_nothing() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("c").await;
    let bad = TestEnv::toml(&env.publisher.toml("market-data", &["*"]), "").replace("jwks_file", "jwks_fil");
    let error = env.gateway.reload(&bad, &env.folder).unwrap_err();
    assert!(error.contains("jwks_fil"), "{error}");
    env.publish("c", "1").await;
    alice.expect("message").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_keeps_replay_window() {
    let env = TestEnv::start("").await;
    let request = env.request("POST", "/v1/channels/c/messages", Some(("application/json", b"1")));
    assert_eq!(env.send(request.clone()).await.status, 200);
    env.reload(&env.publisher.toml("market-data", &["*"]), "");
    assert_eq!(env.send(request).await.refusal(), (401, "signature-replayed".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_keeps_connections() {
    let env = TestEnv::start("").await;
    let mut subscribers: Vec<Ws> = Vec::new();
    for _ in 0..20 {
        let mut ws = env.subscriber().await;
        ws.subscribe("c").await;
        subscribers.push(ws);
    }
    for n in 1..=20 {
        env.reload(&env.publisher.toml("market-data", &["*"]), "");
        env.publish("c", "1").await;
        for ws in &mut subscribers {
            assert_eq!(ws.expect("message").await["offset"], n);
        }
    }
}
