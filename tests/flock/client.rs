//! Shared by the flock tests: a gateway with both roles, a subscriber, a publisher's requests.

use ::http::Request;
use base64::Engine as _;
use bytes::Bytes;
use serde_json::json;
use test_support::{Answer, TestEnv, Ws, http};

/// Of `password`, as cheap as can be, because tests are many.
pub const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$8Tf44YakA6Z5zNBgblq13Nr+Q8FkCFWsjG4z6b1j7rM";

/// `more` is appended to the configuration.
pub async fn start(more: &str) -> TestEnv {
    let file = format!(
        r#"
        [listeners.flight]
        address = "127.0.0.1:0"
        roles = ["flock"]
        [listeners.control]
        address = "127.0.0.1:0"
        roles = ["flock-publish"]
        [publishers.older]
        basic = {{ username = "admin", password_argon2 = "{HASH}" }}
        channels = ["*"]
        {more}
        "#
    );
    TestEnv::start(&file).await
}

/// The same with channels for anyone.
pub async fn start_open() -> TestEnv {
    start("[channel_defaults]\nsubscribers = \"anyone\"\n").await
}

/// A client on the listener `flight`.
pub async fn connect(env: &TestEnv) -> Ws {
    let request = Ws::request(&env.gateway.authority("flight"), "/ws", &[]);
    Ws::open(env.gateway.address("flight"), request).await.expect("an upgrade")
}

pub fn response(request_id: &str, subscribed: bool, topic: &str) -> String {
    json!({"request_id": request_id, "subscribed": subscribed, "topic": topic, "type": "response"}).to_string()
}

/// Sends a text; the next one must be this.
pub async fn check(ws: &mut Ws, sent: &str, expected: &str) {
    ws.send_text(sent).await;
    assert_eq!(ws.text().await, expected, "to {sent}");
}

/// Subscribes; gives whether that is in force.
pub async fn subscribe(ws: &mut Ws, topic: &str) -> bool {
    ws.send(json!({"type": "Subscribe", "request_id": "s", "topic": topic})).await;
    let answer = ws.text().await;
    let is_in_force = answer == response("s", true, topic);
    assert!(is_in_force || answer == response("s", false, topic), "{answer}");
    is_in_force
}

/// Nothing was on its way.
pub async fn expect_silence(ws: &mut Ws) {
    ws.send(json!({"type": "Unsubscribe", "request_id": "silence", "topic": "no such topic"})).await;
    assert_eq!(ws.text().await, response("silence", false, "no such topic"));
}

pub fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}")))
}

/// A request as the published clients make it.
pub fn request(env: &TestEnv, path: &str, body: impl Into<Bytes>) -> Request<Bytes> {
    Request::post(path)
        .header("authorization", basic("admin", "password"))
        .header("content-type", "application/json")
        .header("accept", "*/*")
        .header("host", env.gateway.authority("control"))
        .body(body.into())
        .unwrap()
}

pub async fn send(env: &TestEnv, request: Request<Bytes>) -> Answer {
    http::send(env.gateway.address("control"), request).await
}

/// Publishes to an encoded topic, which must be taken.
pub async fn publish(env: &TestEnv, topic: &str, body: &str) {
    let answer = send(env, request(env, &format!("/api/v1/event/{topic}"), body.to_owned())).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (204, &b""[..]), "{answer:?}");
}
