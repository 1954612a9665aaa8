//! What an operator takes back ends within a second, and nobody else notices.

use std::time::{Duration, Instant};

use base64::Engine;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::common::gateway::ISSUER;
use crate::common::http;
use crate::common::{Answer, TestPublisher, World, Ws, eventually, unix_now};

/// A world with a second publisher, `ops`, that may control and nothing else.
pub async fn controlled(more: &str) -> (World, TestPublisher) {
    let ops = TestPublisher::new();
    let entry = format!("\n[publishers.ops]\nkey = {:?}\ncontrol = true\n", ops.public_line());
    (World::start(&format!("{entry}{more}")).await, ops)
}

/// A request signed by `ops`.
pub async fn control(world: &World, ops: &TestPublisher, method: &str, path: &str, body: Option<Value>) -> Answer {
    let body = body.map(|body| body.to_string());
    let body = body.as_ref().map(|body| ("application/json", body.as_bytes()));
    let request = ops.request(&world.gateway.authority("publish"), method, path, body);
    http::send(world.gateway.address("publish"), request).await
}

async fn revoke(world: &World, ops: &TestPublisher, mut what: Value) {
    what["issuer"] = json!(ISSUER);
    let answer = control(world, ops, "POST", "/v1/control/revocations", Some(what)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
}

/// A new token of the subject must be refused.
async fn refused(world: &World, subject: &str) {
    let mut ws = world.connect().await;
    ws.send(json!({"type": "hello", "token": world.issuer.token(subject)})).await;
    ws.expect_close(4501, "unauthenticated").await;
}

fn claims_of(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

async fn connected(world: &World, token: &str) -> Ws {
    let mut ws = world.connect().await;
    ws.hello(Some(token)).await;
    ws.subscribe("c").await;
    ws
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_ends_matching_connections() {
    let (world, ops) = controlled("").await;
    let session = |subject: &str, id: &str| {
        world.issuer.token_with(subject, 3600, |request| drop(request.claims.insert("sid".into(), id.into())))
    };
    let plain = |subject: &str| world.issuer.token(subject);
    let tokens = [plain("alice"), session("bob", "s1"), plain("bob"), session("carol", "s2")];
    let id = claims_of(&tokens[2])["jti"].clone();
    let mut connections = Vec::new();
    for token in &tokens {
        connections.push(connected(&world, token).await);
    }
    let whats =
        [json!({"subject": "alice"}), json!({"session": "s1"}), json!({"token_id": id}), json!({"everyone": true})];
    for (at, what) in whats.into_iter().enumerate() {
        revoke(&world, &ops, what).await;
        connections[at].expect_close(4503, "revoked").await;
        for other in &mut connections[at + 1..] {
            other.expect_silence().await;
        }
        // The same token does not come back, neither in a message nor in a header.
        let mut again = world.connect().await;
        again.send(json!({"type": "hello", "token": tokens[at]})).await;
        again.expect_close(4501, "unauthenticated").await;
        let bearer = format!("Bearer {}", tokens[at]);
        let refused = world.connect_with(&[("authorization", &bearer)]).await.err().expect("a refusal");
        assert_eq!(refused.refusal(), (401, "unauthenticated".into()));
    }
    let listed = control(&world, &ops, "GET", "/v1/control/revocations", None).await.json();
    assert_eq!(listed["revocations"].as_array().unwrap().len(), 4, "{listed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn later_logins_are_valid() {
    let (world, ops) = controlled("").await;
    let mut alice = connected(&world, &world.issuer.token("alice")).await;
    let moment = unix_now();
    revoke(&world, &ops, json!({"subject": "alice", "before": moment})).await;
    alice.expect_close(4503, "revoked").await;
    eventually("the next second", async || (unix_now() > moment).then_some(())).await;
    connected(&world, &world.issuer.token("alice")).await.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_spares_other_users() {
    let (world, ops) = controlled("[limits]\nping_secs = 300\n").await;
    let tokens: Vec<String> = (0..100).map(|user| world.issuer.token(&format!("user{user}"))).collect();
    let mut connections: Vec<Ws> = Vec::new();
    for chunk in (0..2_000).collect::<Vec<usize>>().chunks(50) {
        connections.extend(join_all(chunk.iter().map(|at| connected(&world, &tokens[at % 100]))).await);
    }
    let begun = Instant::now();
    revoke(&world, &ops, json!({"subject": "user7"})).await;
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
    world.publish("c", "1").await;
    join_all(others.iter_mut().map(async |ws| {
        ws.expect("message").await;
    }))
    .await;
    world.await_metric("lastmile_connections", 1_980.0).await;
    assert_eq!(world.metric("lastmile_closes_total{reason=\"revoked\"}").await, 20.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_file_applies_on_reload() {
    let more = "\nrevocations_file = \"revoked.json\"\n";
    let world = World::start("").await;
    let (mut alice, mut bob) =
        (connected(&world, &world.issuer.token("alice")).await, connected(&world, &world.issuer.token("bob")).await);
    let publisher = world.publisher.toml("market-data", &["*"]);
    let toml = format!("{more}{}", World::toml(&publisher, ""));
    let line = |what: Value| format!("{what}\n");
    world.folder.write("revoked.json", &line(json!({"issuer": ISSUER, "subject": "alice", "before": unix_now() + 30})));
    world.gateway.reload(&toml, &world.folder).unwrap();
    alice.expect_close(4503, "revoked").await;
    bob.expect_silence().await;

    // A file that cannot be read changes nothing.
    world.folder.write("revoked.json", "nonsense");
    assert!(world.gateway.reload(&toml, &world.folder).unwrap_err().contains("revocations_file"));
    let ahead = json!({"issuer": ISSUER, "everyone": true, "before": unix_now() + 3600});
    world.folder.write("revoked.json", &line(ahead));
    assert!(world.gateway.reload(&toml, &world.folder).unwrap_err().contains("ahead"));
    bob.expect_silence().await;
    refused(&world, "alice").await;

    world.folder.write("revoked.json", "[]");
    world.gateway.reload(&toml, &world.folder).unwrap();
    connected(&world, &world.issuer.token("alice")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_revocation_list_refuses_push() {
    let (world, ops) = controlled("[limits]\nrevocations = 2\n").await;
    for subject in ["alice", "bob"] {
        revoke(&world, &ops, json!({"subject": subject, "before": unix_now() + 30})).await;
    }
    let path = "/v1/control/revocations";
    let one_more = json!({"issuer": ISSUER, "subject": "carol"});
    assert_eq!(control(&world, &ops, "POST", path, Some(one_more)).await.refusal(), (429, "limit-reached".into()));
    refused(&world, "alice").await;
    refused(&world, "bob").await;
    for (bad, expected) in [
        (json!({"issuer": ISSUER}), (400, "malformed")),
        (json!({"issuer": ISSUER, "sub": "alice"}), (400, "malformed")),
        (json!({"issuer": ISSUER, "subject": "alice", "before": unix_now() + 3600}), (400, "malformed")),
        (json!({"issuer": "https://typo.example.com", "everyone": true}), (404, "not-found")),
        (json!([ISSUER, "alice"]), (400, "malformed")),
    ] {
        let (status, problem) = control(&world, &ops, "POST", path, Some(bad.clone())).await.refusal();
        assert_eq!((status, problem.as_str()), expected, "{bad}");
    }
}
