//! Control requests: signed pushes of keys, rules and revocations by whitelisted keys alone.

use serde_json::{Value, json};

use super::revocation::{control, controlled};
use test_support::gateway::ISSUER;
use test_support::{TestEnv, TestIssuer};

const CHANNELS: &str = "/v1/control/channels";

fn jwks_path() -> String {
    format!("/v1/control/jwks/{}", ISSUER.replace(':', "%3A").replace('/', "%2F"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_control_keys_control() {
    let (env, ops) = controlled("").await;
    let everything = [
        ("GET", CHANNELS.to_owned(), None),
        ("PUT", CHANNELS.to_owned(), Some(json!({"channel_defaults": {"subscribers": "anyone"}}))),
        ("DELETE", CHANNELS.to_owned(), None),
        ("GET", "/v1/control/revocations".to_owned(), None),
        ("POST", "/v1/control/revocations".to_owned(), Some(json!({"issuer": ISSUER, "everyone": true}))),
        ("PUT", jwks_path(), Some(json!({"keys": []}))),
    ];
    let mut alice = env.subscriber().await;
    for (method, path, body) in &everything {
        let answer = control(&env, &env.publisher, method, path, body.clone()).await;
        assert_eq!(answer.refusal(), (403, "forbidden".into()), "{method} {path}");
        let host = env.gateway.authority("publish");
        let unsigned = http::Request::builder().method(*method).uri(path).header("host", host);
        let unsigned = unsigned.body(bytes::Bytes::new()).unwrap();
        assert_eq!(env.send(unsigned).await.refusal(), (401, "signature-missing".into()));
        // Elsewhere there is nothing.
        let request = ops.request(&env.gateway.authority("public"), method, path, None);
        let answer = test_support::http::send(env.gateway.address("public"), request).await;
        assert_eq!(answer.refusal(), (404, "not-found".into()));
    }
    alice.expect_silence().await;
    let answer = control(&env, &ops, "POST", "/v1/channels/c/messages", Some(json!(1))).await;
    assert_eq!(answer.refusal(), (403, "channel-forbidden".into()));
    assert_eq!(control(&env, &ops, "POST", CHANNELS, Some(json!({}))).await.problem(), "method-not-allowed");
    assert_eq!(env.metric("lastmile_control_changes_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushed_rules_apply_and_revert() {
    let (env, ops) = controlled("[[channels]]\nmatch = \"a\"\nsubscribers = \"anyone\"\n").await;
    let mut anonymous = env.anonymous().await;
    let mut alice = env.subscriber().await;
    anonymous.subscribe("a").await;
    alice.subscribe("a").await;
    alice.subscribe("b").await;
    let before = control(&env, &ops, "GET", CHANNELS, None).await.json();
    assert_eq!(before["source"], "files");

    let rules = json!({"channels": [{"match": "a"}, {"match": "user.{sub}"}]});
    assert_eq!(control(&env, &ops, "PUT", CHANNELS, Some(rules)).await.status, 204);
    assert_eq!(anonymous.expect("unsubscribed").await["channel"], "a");
    alice.subscribe("user.alice").await;
    alice.subscribe_refused("user.bob", "forbidden").await;
    let pushed = control(&env, &ops, "GET", CHANNELS, None).await.json();
    assert_eq!(pushed["source"], "pushed");
    assert_eq!(pushed["rules"]["channels"][1]["match"], "user.{sub}");

    let entry = format!("\n[publishers.ops]\nkey = {:?}\ncontrol = true\n", ops.public_line());
    let publishers = env.publisher.toml("market-data", &["*"]) + &entry;
    env.reload(&publishers, "[[channels]]\nmatch = \"a\"\nsubscribers = \"anyone\"\n");
    anonymous.subscribe_refused("a", "unauthenticated").await;

    // The result of `GET` can be pushed again, and the files' policy restored.
    assert_eq!(control(&env, &ops, "PUT", CHANNELS, Some(pushed["rules"].clone())).await.status, 204);
    assert_eq!(control(&env, &ops, "DELETE", CHANNELS, None).await.status, 204);
    anonymous.subscribe("a").await;
    alice.subscribe_refused("a", "already_subscribed").await;
    assert_eq!(control(&env, &ops, "GET", CHANNELS, None).await.json(), before);
    assert_eq!(env.metric("lastmile_control_changes_total{what=\"channels\"}").await, 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_push_changes_nothing() {
    let (env, ops) = controlled("").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("c").await;
    for (body, parts) in [
        (json!({"channels": [{"match": "c", "subscribers": {"group": "staff"}}, {"macth": "b"}]}), vec!["channels[1]"]),
        (
            json!({"channels": [{"match": ""}], "channel_defaults": {"subscribers": "unknown"}}),
            vec!["match", "unknown"],
        ),
        (json!({"publishers": {}}), vec!["publishers"]),
        (json!([]), vec!["object"]),
    ] {
        let answer = control(&env, &ops, "PUT", CHANNELS, Some(body)).await;
        assert_eq!(answer.refusal(), (400, "malformed".into()));
        let detail = answer.json()["detail"].to_string();
        assert!(parts.iter().all(|part| detail.contains(part)), "{detail}");
    }
    alice.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushed_keys_replace_issuer_keys() {
    let (env, ops) = controlled("").await;
    let next = TestIssuer::new(ISSUER);
    let keys: Value = serde_json::from_str(&next.jwks()).unwrap();
    let hello = async |env: &TestEnv, token: String| {
        let mut ws = env.connect().await;
        ws.send(json!({"type": "hello", "token": token})).await;
        ws.next().await.is_ok()
    };
    let old = env.issuer.token("alice");
    assert!(hello(&env, old.clone()).await);
    assert!(!hello(&env, next.token("alice")).await);
    let mut connected = env.subscriber().await;

    let mut private = keys.clone();
    private["keys"][0]["d"] = json!("AAAA");
    for bad in [json!({"keys": []}), json!({}), private, json!({"keys": [{"kty": "oct", "k": "AAAA"}]})] {
        let answer = control(&env, &ops, "PUT", &jwks_path(), Some(bad)).await;
        assert_eq!(answer.refusal(), (400, "malformed".into()));
    }
    let unknown = control(&env, &ops, "PUT", "/v1/control/jwks/https%3A%2F%2Felsewhere", Some(keys.clone())).await;
    assert_eq!(unknown.refusal(), (404, "not-found".into()));
    assert!(hello(&env, old.clone()).await);

    assert_eq!(control(&env, &ops, "PUT", &jwks_path(), Some(keys)).await.status, 204);
    assert!(hello(&env, next.token("alice")).await);
    assert!(!hello(&env, old).await, "also one that was verified before");
    // A replaced key ends no session; revocations do.
    connected.expect_silence().await;
}
