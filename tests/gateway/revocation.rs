//! Revocations end matching connections within a second, and no others.

use std::time::{Duration, Instant};

use base64::Engine;
use futures_util::future::join_all;
use serde_json::{Value, json};
use test_support::gateway::ISSUER;
use test_support::{Answer, TestEnv, TestPublisher, Ws, eventually, http, unix_now};

/// A env with a second publisher, `ops`, that may control and nothing else.
pub async fn controlled(more: &str) -> (TestEnv, TestPublisher) {
    let ops = TestPublisher::new();
    let entry = format!("\n[publishers.ops]\nkey = {:?}\ncontrol = true\n", ops.public_line());
    (TestEnv::start(&format!("{entry}{more}")).await, ops)
}

/// A request signed by `ops`.
pub async fn control(env: &TestEnv, ops: &TestPublisher, method: &str, path: &str, body: Option<Value>) -> Answer {
    let body = body.map(|body| body.to_string());
    let body = body.as_ref().map(|body| ("application/json", body.as_bytes()));
    let request = ops.request(&env.gateway.authority("publish"), method, path, body);
    http::send(env.gateway.address("publish"), request).await
}

async fn revoke(env: &TestEnv, ops: &TestPublisher, mut what: Value) {
    what["issuer"] = json!(ISSUER);
    let answer = control(env, ops, "POST", "/v1/control/revocations", Some(what)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
}

/// A new token of the subject must be refused.
async fn refused(env: &TestEnv, subject: &str) {
    let mut ws = env.connect().await;
    ws.send(json!({"type": "hello", "token": env.issuer.token(subject)})).await;
    ws.expect_close(4501, "unauthenticated").await;
}

fn claims_of(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

async fn connected(env: &TestEnv, token: &str) -> Ws {
    let mut ws = env.connect().await;
    ws.hello(Some(token)).await;
    ws.subscribe("c").await;
    ws
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_ends_matching_connections() {
    let (env, ops) = controlled("").await;
    let session = |subject: &str, id: &str| {
        env.issuer.token_with(subject, 3600, |request| drop(request.claims.insert("sid".into(), id.into())))
    };
    let plain = |subject: &str| env.issuer.token(subject);
    let tokens = [plain("alice"), session("bob", "s1"), plain("bob"), session("carol", "s2")];
    let id = claims_of(&tokens[2])["jti"].clone();
    let mut connections = Vec::new();
    for token in &tokens {
        connections.push(connected(&env, token).await);
    }
    let whats =
        [json!({"subject": "alice"}), json!({"session": "s1"}), json!({"token_id": id}), json!({"everyone": true})];
    for (at, what) in whats.into_iter().enumerate() {
        revoke(&env, &ops, what).await;
        connections[at].expect_close(4503, "revoked").await;
        for other in &mut connections[at + 1..] {
            other.expect_silence().await;
        }
        // The same token does not come back, neither in a message nor in a header.
        let mut again = env.connect().await;
        again.send(json!({"type": "hello", "token": tokens[at]})).await;
        again.expect_close(4501, "unauthenticated").await;
        let bearer = format!("Bearer {}", tokens[at]);
        let refused = env.connect_with(&[("authorization", &bearer)]).await.err().expect("a refusal");
        assert_eq!(refused.refusal(), (401, "unauthenticated".into()));
    }
    let listed = control(&env, &ops, "GET", "/v1/control/revocations", None).await.json();
    assert_eq!(listed["revocations"].as_array().unwrap().len(), 4, "{listed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn later_logins_are_valid() {
    let (env, ops) = controlled("").await;
    let mut alice = connected(&env, &env.issuer.token("alice")).await;
    let moment = unix_now();
    revoke(&env, &ops, json!({"subject": "alice", "before": moment})).await;
    alice.expect_close(4503, "revoked").await;
    eventually("the next second", async || (unix_now() > moment).then_some(())).await;
    connected(&env, &env.issuer.token("alice")).await.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_spares_other_users() {
    let (env, ops) = controlled("[limits]\nping_secs = 300\n").await;
    let tokens: Vec<String> = (0..100).map(|user| env.issuer.token(&format!("user{user}"))).collect();
    let mut connections: Vec<Ws> = Vec::new();
    for chunk in (0..2_000).collect::<Vec<usize>>().chunks(50) {
        connections.extend(join_all(chunk.iter().map(|at| connected(&env, &tokens[at % 100]))).await);
    }
    let begun = Instant::now();
    revoke(&env, &ops, json!({"subject": "user7"})).await;
    let mut others = Vec::new();
    let mut ended = 0;
    for (at, mut ws) in connections.into_iter().enumerate() {
        if at % 100 == 7 {
            ws.expect_close(4503, "revoked").await;
            ended += 1;
        } else {
            others.push(ws);
        }
    }
    let took = begun.elapsed();
    assert_eq!(ended, 20);
    // A second, and the rest is for a busy machine.
    assert!(took < Duration::from_secs(30), "{took:?}");
    env.publish("c", "1").await;
    join_all(others.iter_mut().map(async |ws| {
        ws.expect("message").await;
    }))
    .await;
    env.await_metric("lastmile_connections", 1_980.0).await;
    assert_eq!(env.metric("lastmile_closes_total{reason=\"revoked\"}").await, 20.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_file_applies_on_reload() {
    let more = "\nrevocations_file = \"revoked.json\"\n";
    let env = TestEnv::start("").await;
    let (mut alice, mut bob) =
        (connected(&env, &env.issuer.token("alice")).await, connected(&env, &env.issuer.token("bob")).await);
    let publisher = env.publisher.toml("market-data", &["*"]);
    let toml = format!("{more}{}", TestEnv::toml(&publisher, ""));
    let line = |what: Value| format!("{what}\n");
    env.folder.write("revoked.json", &line(json!({"issuer": ISSUER, "subject": "alice", "before": unix_now() + 30})));
    env.gateway.reload(&toml, &env.folder).unwrap();
    alice.expect_close(4503, "revoked").await;
    bob.expect_silence().await;

    // A file that cannot be read changes nothing.
    env.folder.write("revoked.json", "nonsense");
    assert!(env.gateway.reload(&toml, &env.folder).unwrap_err().contains("revocations_file"));
    let ahead = json!({"issuer": ISSUER, "everyone": true, "before": unix_now() + 3600});
    env.folder.write("revoked.json", &line(ahead));
    assert!(env.gateway.reload(&toml, &env.folder).unwrap_err().contains("in the future"));
    bob.expect_silence().await;
    refused(&env, "alice").await;

    env.folder.write("revoked.json", "[]");
    env.gateway.reload(&toml, &env.folder).unwrap();
    connected(&env, &env.issuer.token("alice")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_covers_clock_that_is_ahead() {
    let (env, ops) = controlled("").await;
    // The default leeway is 30 s.
    let token = env.issuer.token_at(unix_now() + 25, "alice", 3600, |_| {});
    let mut alice = connected(&env, &token).await;
    revoke(&env, &ops, json!({"subject": "alice"})).await;
    alice.expect_close(4503, "revoked").await;
    let later = env.issuer.token_at(unix_now() + 20, "alice", 3600, |_| {});
    for token in [token, later] {
        let request = ::http::Request::post("/v1/tickets").header("host", env.gateway.authority("public"));
        let request = request.header("authorization", format!("Bearer {token}")).body(bytes::Bytes::new()).unwrap();
        assert_eq!(test_support::http::send(env.gateway.address("public"), request).await.status, 401);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_revocation_list_refuses_push() {
    let (env, ops) = controlled("[limits]\nrevocations = 2\n").await;
    for subject in ["alice", "bob"] {
        revoke(&env, &ops, json!({"subject": subject, "before": unix_now() + 30})).await;
    }
    let path = "/v1/control/revocations";
    let one_more = json!({"issuer": ISSUER, "subject": "carol"});
    assert_eq!(control(&env, &ops, "POST", path, Some(one_more)).await.refusal(), (429, "limit-reached".into()));
    refused(&env, "alice").await;
    refused(&env, "bob").await;
    for (bad, expected) in [
        (json!({"issuer": ISSUER}), (400, "malformed")),
        (json!({"issuer": ISSUER, "sub": "alice"}), (400, "malformed")),
        (json!({"issuer": ISSUER, "subject": "alice", "before": unix_now() + 3600}), (400, "malformed")),
        (json!({"issuer": "https://typo.example.com", "everyone": true}), (404, "not-found")),
        (json!([ISSUER, "alice"]), (400, "malformed")),
    ] {
        let (status, problem) = control(&env, &ops, "POST", path, Some(bad.clone())).await.refusal();
        assert_eq!((status, problem.as_str()), expected, "{bad}");
    }
}
