//! `GET /v1/publish`: one signed handshake, then publications as frames.

use http::HeaderValue;
use serde_json::json;
use test_support::TestEnv;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_frames_keep_order() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("c").await;
    let mut ws = env.publisher_ws().await;
    for n in 1..=1000 {
        ws.feed(format!(r#"{{"type":"publish","id":"{n}","channel":"c","data":{{"n": {n}}}}}"#)).await;
    }
    ws.flush().await;
    for n in 1..=1000 {
        let answer = ws.json().await;
        let (id, epoch) = (answer["message_id"].clone(), answer["epoch"].clone());
        let expected = json!({"type": "published", "id": n.to_string(), "channel": "c", "message_id": id, "offset": n,
            "epoch": epoch});
        assert_eq!(answer, expected);
        let message = alice.text().await;
        assert!(message.ends_with(&format!(r#""data":{{"n": {n}}}}}"#)), "{message}");
        assert!(message.contains(&format!(r#""message_id":{id},"epoch":{epoch},"offset":{n},"#)), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_frame_is_refused_alone() {
    let env = TestEnv::start("[[channels]]\nmatch = \"small\"\nmax_message_bytes = 4\n").await;
    let other = test_support::TestPublisher::new();
    env.reload(&other.toml("other", &["c", "small"]), "[[channels]]\nmatch = \"small\"\nmax_message_bytes = 4\n");
    let mut ws = env.open_publisher(&other).await.expect("an upgrade");
    ws.expect("welcome").await;
    for (frame, code) in [
        (r#"{"type":"publish","id":"1","channel":"d","data":1}"#, "channel_forbidden"),
        (r#"{"type":"publish","id":"1","channel":"","data":1}"#, "channel_invalid"),
        (r#"{"type":"publish","id":"1","data":1}"#, "malformed"),
        (r#"{"type":"publish","id":"1","channel":"c"}"#, "malformed"),
        (r#"{"type":"publish","id":"1","channel":"small","data":12345}"#, "message_too_large"),
        (r#"{"type":"publish","id":"1","channel":"c","data":"!","encoding":"base64"}"#, "malformed"),
        (r#"{"type":"publish","id":"1","channel":"c","data":"","encoding":"gzip"}"#, "malformed"),
        (r#"{"type":"subscribe","id":"1","channel":"c"}"#, "malformed"),
    ] {
        ws.send_text(frame).await;
        let error = ws.expect_error(code).await;
        assert_eq!(error["id"], "1", "{frame}");
    }
    for frame in [r#"{"id":"1"}"#, "[]", r#"{"type":"publish","id":1}"#] {
        ws.send_text(frame).await;
        ws.expect_error("malformed").await;
    }
    ws.send_text(r#"{"type":"publish","id":"1","channel":"c","data":1}"#).await;
    assert_eq!(ws.expect("published").await["offset"], 1);
    ws.send_text("not JSON").await;
    ws.expect_close(4500, "malformed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn base64_is_carried_as_binary() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("c").await;
    let mut ws = env.publisher_ws().await;
    ws.send(json!({"type": "publish", "channel": "c", "data": "AP8=", "encoding": "base64"})).await;
    let answer = ws.expect("published").await;
    assert!(answer.get("id").is_none());
    let message = alice.expect("message").await;
    assert_eq!((&message["data"], &message["encoding"]), (&json!("AP8="), &json!("base64")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshake_is_signed_and_used_once() {
    let env = TestEnv::start("").await;
    let address = env.gateway.address("publish");
    let request = env.request("GET", "/v1/publish", None);
    let mut ws = test_support::Ws::open(address, request.clone()).await.expect("an upgrade");
    let welcome = ws.expect("welcome").await;
    assert_eq!(welcome["principal"], "market-data");
    let replayed = test_support::Ws::open(address, request).await.err().expect("no upgrade");
    assert_eq!(replayed.refusal(), (401, "signature-replayed".into()));

    let unsigned = test_support::Ws::request(&env.gateway.authority("publish"), "/v1/publish", &[]);
    let refused = test_support::Ws::open(address, unsigned).await.err().expect("no upgrade");
    assert_eq!(refused.refusal(), (401, "signature-missing".into()));

    let mut asked = env.request("GET", "/v1/publish", None);
    asked.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("lastmile.v1"));
    let ws = test_support::Ws::open(address, asked).await.expect("an upgrade");
    assert_eq!(ws.answer.header("sec-websocket-protocol"), "lastmile.v1");

    // Signed, but no upgrade.
    let plain = env.call("GET", "/v1/publish", None).await;
    assert_eq!(plain.refusal(), (426, "upgrade-required".into()));
    assert_eq!(plain.header("upgrade"), "websocket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publisher_pings_are_answered() {
    let env = TestEnv::start("").await;
    let mut ws = env.publisher_ws().await;
    ws.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn null_is_data_too() {
    let env = TestEnv::start("").await;
    let mut alice = env.subscriber().await;
    alice.subscribe("c").await;
    let mut ws = env.publisher_ws().await;
    ws.send_text(r#"{"type":"publish","id":"1","channel":"c","data":null}"#).await;
    ws.expect("published").await;
    assert!(alice.text().await.ends_with(r#""data":null}"#));
}
