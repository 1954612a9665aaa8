//! Tokens and rules for subscribers; begin, refresh and end of a session.

use serde_json::json;
use test_support::{TestEnv, TestIssuer, Ws, unix_now};

const RULES: &str = r#"
[[channels]]
match = "open.*"
subscribers = "anyone"
[[channels]]
match = "scope.*"
subscribers = { scope = "read" }
[[channels]]
match = "group.*"
subscribers = { group = ["staff", "on-call"] }
[[channels]]
match = "tenant.*"
subscribers = { claim = { tenant = "acme" } }
[[channels]]
match = "all.*"
subscribers = { scope = "read", group = "staff", claim = { tenant = "acme" } }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_in_hello_or_header() {
    let env = TestEnv::start("").await;
    let token = env.issuer.token("alice");
    let mut by_hello = env.connect().await;
    let welcome = by_hello.hello(Some(&token)).await;
    assert_eq!((&welcome["principal"], &welcome["ping_secs"]), (&json!("alice"), &json!(25)));
    assert!(welcome["connection"].as_str().unwrap().starts_with("c-"));
    let expires = welcome["expires"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second() as u64;
    assert!((unix_now() + 3500..=unix_now() + 3600).contains(&expires), "{welcome}");
    by_hello.subscribe("c").await;

    let bearer = format!("Bearer {token}");
    let mut by_header = env.connect_with(&[("authorization", &bearer)]).await.expect("an upgrade");
    assert_eq!(by_header.expect("welcome").await["principal"], "alice");
    by_header.subscribe("c").await;
    // A second `hello` is a mistake, and no more.
    by_header.send(json!({"type": "hello", "id": "h", "token": token})).await;
    assert_eq!(by_header.expect_error("malformed").await["id"], "h");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issuers_vouch_for_own_channels() {
    let env = TestEnv::start("").await;
    let (second, forger) =
        (TestIssuer::new("https://other.example.com"), TestIssuer::new(test_support::gateway::ISSUER));
    env.folder.write("other.json", &second.jwks());
    let issuer =
        "[[issuers]]\nissuer = \"https://other.example.com\"\naudience = \"lastmile\"\njwks_file = \"other.json\"\n";
    env.reload(&env.publisher.toml("market-data", &["*"]), issuer);
    for issuer in [&env.issuer, &second] {
        let mut ws = env.connect().await;
        assert_eq!(ws.hello(Some(&issuer.token("alice"))).await["principal"], "alice");
        ws.subscribe("c").await;
    }
    // The name of one issuer with the key of another.
    let mut ws = env.connect().await;
    ws.send(json!({"type": "hello", "token": forger.token("alice")})).await;
    ws.expect_close(4501, "unauthenticated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_token_is_refused_everywhere() {
    let env =
        TestEnv::start("[listeners.pair]\naddress = \"127.0.0.1:0\"\nroles = [\"pair\"]\n[rooms]\nopen = \"login\"\n")
            .await;
    let mut alice = env.subscriber().await;
    for (name, value) in [
        ("nonce", json!("n-0S6")),
        ("at_hash", json!("77QmUPtjPfzWtF2AnpK9RQ")),
        ("c_hash", json!("")),
        ("s_hash", json!(null)),
        ("events", json!({})),
        ("token_use", json!("id")),
        ("typ", json!("ID")),
    ] {
        let token = env.issuer.token_with("alice", 60, |token| {
            token.claims.insert(name.into(), value);
        });
        let bearer = format!("Bearer {token}");
        let refused = (401, "unauthenticated".to_owned());
        let answer = env.connect_with(&[("authorization", &bearer)]).await.err().expect("a refusal");
        assert_eq!(answer.refusal(), refused, "{name}");
        for (listener, method, path) in [
            ("public", "POST", "/v1/tickets"),
            ("public", "GET", "/v1/events?channel=c"),
            ("public", "GET", "/v1/poll?channel=c"),
            ("pair", "POST", "/v1/rooms"),
        ] {
            let request = http::Request::builder().method(method).uri(path).header("authorization", &bearer);
            let request = request.header("host", env.gateway.authority(listener)).body(bytes::Bytes::new()).unwrap();
            let answer = test_support::http::send(env.gateway.address(listener), request).await;
            assert_eq!(answer.refusal(), refused, "{name} {path}");
        }
        let mut ws = env.connect().await;
        ws.send(json!({"type": "hello", "token": token})).await;
        ws.expect_close(4501, "unauthenticated").await;
        let mut room = Ws::connect(env.gateway.address("pair"), "/v1/rooms", &[]).await.expect("an upgrade");
        room.send(json!({"type": "open", "token": token})).await;
        room.expect_close(4501, "unauthenticated").await;
        alice.send(json!({"type": "refresh", "id": "r", "token": token})).await;
        assert_eq!(alice.expect_error("unauthenticated").await["id"], "r", "{name}");
    }
    alice.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_token_is_401_or_4501() {
    let env = TestEnv::start("").await;
    let good = env.issuer.token("alice");
    let for_others = env.issuer.token_with("alice", 60, |token| token.audiences = vec!["another".into()]);
    for token in [for_others.as_str(), &good[..good.len() - 1], "x", "a.b.c", "  x"] {
        let answer = env.connect_with(&[("authorization", &format!("Bearer {token}"))]).await.err().expect("a refusal");
        assert_eq!(answer.refusal(), (401, "unauthenticated".into()), "{token}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        let mut ws = env.connect().await;
        ws.send(json!({"type": "hello", "token": token})).await;
        ws.expect_close(4501, "unauthenticated").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_gets_open_channels_only() {
    let env = TestEnv::start(RULES).await;
    let mut ws = env.connect().await;
    let welcome = ws.hello(None).await;
    assert!(welcome["principal"].is_null() && welcome.get("expires").is_none(), "{welcome}");
    ws.subscribe("open.1").await;
    for channel in ["closed", "scope.1", "group.1", "tenant.1", "open"] {
        ws.subscribe_refused(channel, "unauthenticated").await;
    }
    env.publish("closed", "1").await;
    env.publish("open.1", "2").await;
    assert_eq!(ws.expect("message").await["data"], 2);

    // `hello` may be left out: the welcome comes before the answer.
    let mut ws = env.connect().await;
    ws.send(json!({"type": "subscribe", "id": "1", "channel": "open.1"})).await;
    assert!(ws.expect("welcome").await["principal"].is_null());
    ws.expect("subscribed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_check_scopes_groups_claims() {
    let env = TestEnv::start(RULES).await;
    let check = async |allowed: &[&str], scope: &str, group: &str, tenant: serde_json::Value| {
        let token = env.issuer.token_with("alice", 60, |token| {
            token.scopes = vec![scope.into(), "other".into()];
            token.groups = vec!["other".into(), group.into()];
            token.claims.insert("tenant".into(), tenant.clone());
        });
        let mut ws = env.connect().await;
        ws.hello(Some(&token)).await;
        for channel in ["scope.1", "group.1", "tenant.1", "all.1"] {
            if allowed.contains(&channel) {
                ws.subscribe(channel).await;
            } else {
                ws.subscribe_refused(channel, "forbidden").await;
            }
        }
        ws.subscribe("plain").await;
    };
    check(&["scope.1"], "read", "none", json!("other")).await;
    check(&["group.1"], "reader", "on-call", json!("ACME")).await;
    check(&["tenant.1"], "rea", "staffer", json!("acme")).await;
    check(&["tenant.1"], "x", "x", json!(["other", "acme"])).await;
    check(&["scope.1", "group.1", "tenant.1", "all.1"], "read", "staff", json!("acme")).await;
    check(&["scope.1", "group.1", "tenant.1"], "read", "on-call", json!("acme")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_ends_with_its_token() {
    let env = TestEnv::start("").await;
    let mut ws = env.connect().await;
    let welcome = ws.hello(Some(&env.issuer.token_with("alice", 5, |_| {}))).await;
    let expires = welcome["expires"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    ws.subscribe("c").await;
    ws.expect_close(4003, "token_expired").await;
    let late = jiff::Timestamp::now().as_millisecond() - expires.as_millisecond();
    // The sweep comes once a second; the rest is for a busy machine.
    assert!((0..30_000).contains(&late), "closed {late} ms after the token's end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refresh_extends_session_of_same_person() {
    let env = TestEnv::start(RULES).await;
    let read = |token: &mut lastmile::auth::token::TokenRequest| token.scopes = vec!["read".into()];
    let mut ws = env.connect().await;
    ws.hello(Some(&env.issuer.token_with("alice", 8, read))).await;
    ws.subscribe("scope.1").await;
    ws.subscribe("plain").await;

    ws.send(json!({"type": "refresh", "id": "1", "token": env.issuer.token("bob")})).await;
    assert_eq!(ws.expect_error("forbidden").await["id"], "1");
    ws.send(json!({"type": "refresh", "id": "2", "token": "x"})).await;
    ws.expect_error("unauthenticated").await;
    ws.send(json!({"type": "refresh", "id": "3"})).await;
    ws.expect_error("malformed").await;

    // The new token holds less than the old one.
    let ends = unix_now() + 8;
    ws.send(json!({"type": "refresh", "id": "4", "token": env.issuer.token("alice")})).await;
    let refreshed = ws.expect("refreshed").await;
    assert_eq!(refreshed["id"], "4");
    assert!(refreshed["expires"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second() as u64 > ends);
    let lost = ws.expect("unsubscribed").await;
    assert_eq!((&lost["channel"], &lost["reason"]), (&json!("scope.1"), &json!("forbidden")));

    // The session outlives the first token.
    test_support::eventually("the first token's end", async || (unix_now() > ends + 1).then_some(())).await;
    env.publish("plain", "1").await;
    assert_eq!(ws.expect("message").await["channel"], "plain");
    ws.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_session_accepts_token_later() {
    let env = TestEnv::start(RULES).await;
    let mut ws = env.anonymous().await;
    ws.subscribe_refused("plain", "unauthenticated").await;
    ws.send(json!({"type": "refresh", "id": "1", "token": env.issuer.token("alice")})).await;
    ws.expect("refreshed").await;
    ws.subscribe("plain").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_client_is_closed() {
    let env = TestEnv::start("[limits]\nhello_secs = 1\n").await;
    let mut ws = env.connect().await;
    ws.expect_close(4501, "unauthenticated").await;
    env.await_metric("lastmile_connections", 0.0).await;
}
