//! Tickets: a credential becomes a `?ticket=` that is good once, for clients that can set no header.

use bytes::Bytes;
use http::Request;
use serde_json::json;

use super::revocation::{control, controlled};
use test_support::gateway::ISSUER;
use test_support::{Answer, TestEnv, Ws, http as client};

async fn ask(env: &TestEnv, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::post("/v1/tickets").header("host", env.gateway.authority("public"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client::send(env.gateway.address("public"), request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()).await
}

async fn ticket(env: &TestEnv, body: &str) -> String {
    let bearer = format!("Bearer {}", env.issuer.token("alice"));
    let answer = ask(env, &[("authorization", &bearer)], body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

async fn open(env: &TestEnv, query: &str, headers: &[(&str, &str)]) -> Result<Ws, Answer> {
    let request = Ws::request(&env.gateway.authority("public"), &format!("/v1/subscribe?{query}"), headers);
    Ws::open(env.gateway.address("public"), request).await
}

async fn refused(env: &TestEnv, query: &str) {
    let answer = open(env, query, &[]).await.err().expect("a refusal");
    assert_eq!(answer.refusal(), (401, "unauthenticated".into()), "{query}");
    assert!(!answer.text().contains(query));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticket_opens_one_connection() {
    let env = TestEnv::start("").await;
    let ticket = ticket(&env, "").await;
    let mut ws = open(&env, &format!("ticket={ticket}"), &[]).await.expect("an upgrade");
    assert_eq!(ws.expect("welcome").await["principal"], "alice");
    ws.subscribe("c").await;
    refused(&env, &format!("ticket={ticket}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticket_serves_one_purpose() {
    let env = TestEnv::start("").await;
    for purpose in ["events", "poll", "rooms"] {
        let ticket = ticket(&env, &json!({"purpose": purpose}).to_string()).await;
        refused(&env, &format!("ticket={ticket}")).await;
    }
    let one = ticket(&env, r#"{"purpose":"subscribe"}"#).await;
    let request = Request::post(format!("/v1/tickets?ticket={one}")).header("host", env.gateway.authority("public"));
    let answer = client::send(env.gateway.address("public"), request.body(Bytes::new()).unwrap()).await;
    assert_eq!(answer.refusal(), (401, "unauthenticated".into()));
    let (one, two) = (ticket(&env, "").await, ticket(&env, "").await);
    refused(&env, &format!("ticket={one}&ticket={two}")).await;
    refused(&env, "ticket=").await;
    refused(&env, &format!("ticket={}", "A".repeat(43))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_need_credential_and_origin() {
    let env = TestEnv::start("").await;
    assert_eq!(ask(&env, &[], "").await.refusal(), (401, "unauthenticated".into()));
    assert_eq!(ask(&env, &[("authorization", "Bearer a.b.c")], "").await.refusal(), (401, "unauthenticated".into()));
    let bearer = format!("Bearer {}", env.issuer.token("alice"));
    let from_elsewhere = [("authorization", bearer.as_str()), ("origin", "https://evil.example")];
    assert_eq!(ask(&env, &from_elsewhere, "").await.refusal(), (403, "origin-forbidden".into()));
    for bad in ["[]", "{", r#"{"purpose":"publish"}"#, r#"{"purpos":"events"}"#, "[\"events\"]"] {
        let answer = ask(&env, &[("authorization", &bearer)], bad).await;
        assert_eq!(answer.refusal(), (400, "malformed".into()), "{bad}");
    }
    let answer = ask(&env, &[("authorization", &bearer)], &" ".repeat(300)).await;
    assert_eq!(answer.refusal(), (413, "message-too-large".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticket_ends_with_its_source() {
    let (env, ops) = controlled("[limits]\ntickets = 2\n").await;
    let (one, _) = (ticket(&env, "").await, ticket(&env, "").await);
    let bearer = format!("Bearer {}", env.issuer.token("bob"));
    let answer = ask(&env, &[("authorization", &bearer)], "").await;
    assert_eq!(answer.refusal(), (429, "limit-reached".into()));
    assert_eq!(answer.header("retry-after"), "30");
    let revocation = json!({"issuer": ISSUER, "subject": "alice"});
    assert_eq!(control(&env, &ops, "POST", "/v1/control/revocations", Some(revocation)).await.status, 201);
    refused(&env, &format!("ticket={one}")).await;
}
