//! A new policy for a running gateway: what it takes away goes at once, the rest goes on.

use serde_json::json;

use crate::common::{TestPublisher, World, Ws};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_key_is_cut_new_key_works() {
    let world = World::start("").await;
    let (mut removed, new) = (world.publisher_ws().await, TestPublisher::new());
    let keeps = TestPublisher::new();
    world.reload(&(world.publisher.toml("market-data", &["*"]) + &keeps.toml("keeps", &["*"])), "");
    let mut kept = world.open_publisher(&keeps).await.expect("an upgrade");
    kept.expect("welcome").await;
    let refused = world.open_publisher(&new).await.err().expect("a refusal");
    assert_eq!(refused.refusal(), (401, "key-unknown".into()));

    world.reload(&(new.toml("new", &["*"]) + &keeps.toml("keeps", &["*"])), "");
    removed.expect_close(4503, "revoked").await;
    assert_eq!(world.post("c", "application/json", b"1").await.refusal(), (401, "key-unknown".into()));
    kept.expect_silence().await;
    let mut ws = world.open_publisher(&new).await.expect("an upgrade");
    assert_eq!(ws.expect("welcome").await["principal"], "new");
    assert_eq!(world.metric("lastmile_reloads_total").await, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_publisher_follows_new_channels() {
    let world = World::start("").await;
    let mut ws = world.publisher_ws().await;
    ws.send(json!({"type": "publish", "channel": "a", "data": 1})).await;
    ws.expect("published").await;
    world.reload(&world.publisher.toml("market-data", &["b"]), "");
    crate::common::eventually("the new rules", async || {
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
    let publisher_toml = |world: &World| world.publisher.toml("market-data", &["*"]);
    let world = World::start("[[channels]]\nmatch = \"*\"\nsubscribers = \"anyone\"\n").await;
    let mut anonymous = world.anonymous().await;
    let mut alice = world.subscriber().await;
    for ws in [&mut anonymous, &mut alice] {
        ws.subscribe("a").await;
        ws.subscribe("b").await;
    }
    world.reload(
        &publisher_toml(&world),
        "[[channels]]\nmatch = \"a\"\n[[channels]]\nmatch = \"*\"\nsubscribers = \"anyone\"\n",
    );
    let ended = json!({"type": "unsubscribed", "channel": "a", "reason": "forbidden", "code": 4502});
    assert_eq!(anonymous.json().await, ended);
    anonymous.subscribe_refused("a", "unauthenticated").await;
    world.publish("a", "1").await;
    world.publish("b", "2").await;
    assert_eq!(anonymous.expect("message").await["channel"], "b");
    anonymous.expect_silence().await;
    assert_eq!(alice.expect("message").await["channel"], "a");
    assert_eq!(alice.expect("message").await["channel"], "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_issuer_tokens_are_refused() {
    let world = World::start("").await;
    let token = world.issuer.token("alice");
    let mut before = world.connect().await;
    before.hello(Some(&token)).await;
    before.subscribe("c").await;
    let other = crate::common::TestIssuer::new("https://other.example.com");
    world.folder.write("other.json", &other.jwks());
    let toml = World::toml(&world.publisher.toml("market-data", &["*"]), "")
        .replace(crate::common::gateway::ISSUER, "https://other.example.com")
        .replace("sso.json", "other.json");
    world.gateway.reload(&toml, &world.folder).unwrap();

    let mut after = world.connect().await;
    after.send(json!({"type": "hello", "token": token})).await;
    after.expect_close(4501, "unauthenticated").await;
    let mut others = world.connect().await;
    others.hello(Some(&other.token("alice"))).await;

    // Whoever came with the old issuer's word has no right to stay.
    before.expect_close(4503, "revoked").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_configuration_changes_nothing() {
    let world = World::start("").await;
    let mut alice = world.subscriber().await;
    alice.subscribe("c").await;
    let bad = World::toml(&world.publisher.toml("market-data", &["*"]), "").replace("jwks_file", "jwks_fil");
    let error = world.gateway.reload(&bad, &world.folder).unwrap_err();
    assert!(error.contains("jwks_fil"), "{error}");
    world.publish("c", "1").await;
    alice.expect("message").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_keeps_replay_window() {
    let world = World::start("").await;
    let request = world.request("POST", "/v1/channels/c/messages", Some(("application/json", b"1")));
    assert_eq!(world.send(request.clone()).await.status, 200);
    world.reload(&world.publisher.toml("market-data", &["*"]), "");
    assert_eq!(world.send(request).await.refusal(), (401, "signature-replayed".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_keeps_connections() {
    let world = World::start("").await;
    let mut subscribers: Vec<Ws> = Vec::new();
    for _ in 0..20 {
        let mut ws = world.subscriber().await;
        ws.subscribe("c").await;
        subscribers.push(ws);
    }
    for n in 1..=20 {
        world.reload(&world.publisher.toml("market-data", &["*"]), "");
        world.publish("c", "1").await;
        for ws in &mut subscribers {
            assert_eq!(ws.expect("message").await["offset"], n);
        }
    }
}
