//! The provider logs people out without their browsers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::browser::Browser;
use test_support::{Answer, eventually, unix_now};

use crate::fake_provider::{Provider, merge};
use crate::test_env::LoginEnv;

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

async fn env() -> (Provider, LoginEnv) {
    let provider = Provider::start().await;
    let env = LoginEnv::start(&provider.toml("company"), "").await;
    (provider, env)
}

/// Claims of a good logout token, changed.
fn claims(provider: &Provider, change: Value) -> Value {
    let mut id = [0; 8];
    getrandom::fill(&mut id).unwrap();
    let now = unix_now();
    let mut claims = json!({
        "iss": provider.issuer, "aud": "gateway", "iat": now, "exp": now + 120, "jti": format!("{id:x?}"),
        "sid": "session-of-alice", "events": {EVENT: {}},
    });
    merge(&mut claims, change);
    claims
}

pub fn token(provider: &Provider, change: Value) -> String {
    provider.sign_with(&json!({"alg": "EdDSA", "typ": "logout+jwt", "kid": "k1"}), &claims(provider, change))
}

pub async fn post_logout_token(env: &LoginEnv, token: &str) -> Answer {
    let form = [("content-type", "application/x-www-form-urlencoded")];
    Browser::new(&env.url).send("POST", "/v1/auth/backchannel-logout", &form, &format!("logout_token={token}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_sessions_end_within_a_second() {
    let (provider, env) = env().await;
    let mut people = Vec::new();
    for (person, session) in [("alice", "s1"), ("alice", "s2"), ("bob", "s3")] {
        let mut browser = Browser::new(&env.url);
        provider.log_in(&mut browser, json!({"sub": person, "sid": session})).await;
        let ws = browser.live().await;
        people.push((browser, ws));
    }
    let answer = post_logout_token(&env, &token(&provider, json!({"sid": "s1", "sub": "alice"}))).await;
    let began = Instant::now();
    assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (200, "no-store"), "{answer:?}");
    let (mut first, mut ended) = people.remove(0);
    ended.expect_close(4503, "revoked").await;
    // The rest is for a busy machine.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(first.get("/v1/auth/session").await.status, 401);
    assert_eq!(first.session(), None);
    for (_, ws) in &mut people {
        ws.expect_silence().await;
    }
    // All of a person, by the subject alone.
    assert_eq!(post_logout_token(&env, &token(&provider, json!({"sid": null, "sub": "alice"}))).await.status, 200);
    let all = unix_now();
    people[0].1.expect_close(4503, "revoked").await;
    people[1].1.expect_silence().await;
    // A later login is valid again; times of tokens are whole seconds.
    eventually("the next second", async || (unix_now() > all).then_some(())).await;
    assert_eq!(provider.log_in(&mut first, json!({"sid": "s9"})).await.status, 303);
    first.live().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_logout_token_ends_nothing() {
    let (provider, env) = env().await;
    let stranger = Provider::start().await;
    let mut browser = Browser::new(&env.url);
    provider.log_in(&mut browser, json!({})).await;
    let mut ws = browser.live().await;
    let now = unix_now();
    let mut tokens: Vec<(String, String)> = [
        json!({"aud": "another"}),
        json!({"aud": null}),
        json!({"iss": stranger.issuer}),
        json!({"iss": null}),
        json!({"iat": null}),
        json!({"iat": now - 3600}),
        json!({"iat": now + 3600}),
        json!({"iat": "now"}),
        json!({"exp": now - 120}),
        json!({"exp": "later"}),
        json!({"jti": null}),
        json!({"jti": 7}),
        json!({"events": null}),
        json!({"events": {}}),
        json!({"events": {EVENT: "yes"}}),
        json!({"events": [EVENT]}),
        json!({"nonce": "n"}),
        json!({"nonce": null, "sid": null, "sub": null}),
        json!({"sid": 7}),
        json!({"sub": ["alice"]}),
    ]
    .into_iter()
    .map(|change| (change.to_string(), token(&provider, change)))
    .collect::<Vec<_>>();
    // `null` took the nonce away, which was not there: that one is about the missing names.
    let good = claims(&provider, json!({}));
    for typ in ["at+jwt", "secevent+jwt"] {
        tokens.push((typ.into(), provider.sign_with(&json!({"alg": "EdDSA", "typ": typ, "kid": "k1"}), &good)));
    }
    tokens.push(("none".into(), provider.sign_with(&json!({"alg": "none"}), &good)));
    tokens.push((
        "a stranger's key".into(),
        stranger.sign_with(&json!({"alg": "EdDSA", "typ": "logout+jwt", "kid": "k1"}), &good),
    ));
    tokens.push(("an ID token".into(), {
        let begun = browser.begin("").await;
        provider.sign(&provider.claims(&begun, json!({})))
    }));
    tokens.push(("rubbish".into(), "x".into()));
    tokens.push(("dots".into(), ".".repeat(10_000)));
    for (what, token) in tokens {
        let answer = post_logout_token(&env, &token).await;
        assert_eq!(answer.refusal(), (400, "malformed".into()), "{what}");
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let mut anonymous = Browser::new(&env.url);
    let path = "/v1/auth/backchannel-logout";
    let good = token(&provider, json!({}));
    let twice = format!("logout_token={good}&logout_token={good}");
    assert_eq!(anonymous.send("POST", path, &form, &twice).await.status, 400);
    assert_eq!(anonymous.send("POST", path, &form, "").await.status, 400);
    assert_eq!(anonymous.send("POST", path, &form, &"x".repeat(20_000)).await.status, 413);
    assert_eq!(anonymous.send("POST", path, &[("content-type", "application/json")], "{}").await.status, 415);
    assert_eq!(anonymous.get(path).await.status, 405);
    ws.expect_silence().await;
    assert_eq!(browser.get("/v1/auth/session").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logout_token_counts_once() {
    let (provider, env) = env().await;
    let token = token(&provider, json!({}));
    assert_eq!(post_logout_token(&env, &token).await.status, 200);
    assert_eq!(post_logout_token(&env, &token).await.refusal(), (400, "malformed".into()));
    // Another token with that id, of another provider, would be another.
    assert_eq!(post_logout_token(&env, &self::token(&provider, json!({"sub": "bob"}))).await.status, 200);
}

/// 2,000 live connections of twenty people; one of them is logged out. Prints how long it took.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logout_spares_other_persons() {
    let provider = Provider::start().await;
    // No client reads before all are connected, so none answers pings.
    let env = LoginEnv::start(&provider.toml("company"), "[limits]\nping_secs = 300\n").await;
    let mut people = Vec::new();
    for person in 0..20 {
        let mut browser = Browser::new(&env.url);
        let name = format!("person-{person}");
        provider.log_in(&mut browser, json!({"sub": name, "sid": name})).await;
        let mut connections = Vec::new();
        for _ in 0..100 {
            let mut ws = browser.live().await;
            ws.subscribe("news").await;
            connections.push(ws);
        }
        people.push(connections);
    }
    let answer = post_logout_token(&env, &token(&provider, json!({"sid": "person-7", "sub": "person-7"}))).await;
    let began = Instant::now();
    assert_eq!(answer.status.as_u16(), 200);
    for ws in &mut people.remove(7) {
        ws.expect_close(4503, "revoked").await;
    }
    println!("100 connections of 2,000 were closed {:?} after the provider was answered", began.elapsed());
    let published = env.base.publish("news", "1").await;
    for ws in people.iter_mut().flatten() {
        assert_eq!(ws.expect("message").await["message_id"], published["id"]);
    }
    env.base.await_metric("lastmile_connections", 1900.0).await;
}
