//! The channelserver form: what its own clients and its own test suite rely on.

use ::http::Request;
use bytes::Bytes;
use serde_json::json;
use test_support::{Received, get, http};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::client::{channel, env, open, try_open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channelserver_transcript_is_reproduced() {
    let env = env("").await;
    let mut a = open(&env, "/v1/ws/").await;
    let first = a.text().await;
    let id = first.split('"').nth(3).unwrap().to_owned();
    assert_eq!(first, format!(r#"{{"channelid":"{id}","link":"/v1/ws/{id}"}}"#));
    assert_eq!(id.len(), 22);
    let padded = format!("/v1/ws/{id}==?x=1");
    let mut b = try_open(&env, "pair", &padded, &[("user-agent", "Mozilla/5.0 X")]).await.unwrap();
    assert_eq!(b.text().await, first);
    b.send_text(" \u{2003}aBc12e\r\n").await;
    let envelope = r#"{"message":"aBc12e","sender":{"remote":"127.0.0.1","ua":"Mozilla/5.0 X"}}"#;
    a.expect_texts(&[envelope]).await;
    // Not to the sender; binary is ignored; fragments are one message.
    b.send_message(Message::binary(vec![1, 2, 3])).await;
    for (data, part, is_final) in [(Data::Text, "fr", false), (Data::Continue, "ag", true)] {
        let frame = Frame::message(Bytes::from(part), OpCode::Data(data), is_final);
        b.send_message(Message::Frame(frame)).await;
    }
    a.expect_texts(&[r#"{"message":"frag","sender":{"remote":"127.0.0.1","ua":"Mozilla/5.0 X"}}"#]).await;
    a.send_text(r#"{"channelid":"x"} "q" \ é"#).await;
    b.expect_texts(&[r#"{"message":"{\"channelid\":\"x\"} \"q\" \\ é","sender":{"remote":"127.0.0.1"}}"#]).await;
    // A third peer exchanges messages with all others.
    let mut c = open(&env, &format!("/v1/ws/{id}")).await;
    assert_eq!(c.text().await, first);
    c.send_text("c").await;
    let from_c = r#"{"message":"c","sender":{"remote":"127.0.0.1"}}"#;
    a.expect_texts(&[from_c]).await;
    b.expect_texts(&[from_c]).await;
    open(&env, &format!("/v1/ws/{id}")).await.expect_close(4508, "connection_limit").await;
    // A peer can come back while another one is connected; the last one ends the room.
    a.close(1000, "").await;
    assert_eq!(a.receive().await, Received::Close(1000, String::new()));
    let mut again = open(&env, &format!("/v1/ws/{id}")).await;
    assert_eq!(again.text().await, first);
    for peer in [&mut again, &mut b, &mut c] {
        peer.close(1000, "").await;
        peer.receive().await;
    }
    env.await_metric("lastmile_rooms", 0.0).await;
    assert_eq!(open(&env, &format!("/v1/ws/{id}")).await.receive().await, Received::Gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_id_is_404_unknown_id_is_cut() {
    let env = env("").await;
    let long = "A".repeat(4000);
    for unknown in ["jvg-n0FXB0kE3rGUIOS5Yw", "0123456789abcdef0123456789abcdef", long.as_str()] {
        // As in the older system, whose clients take a Close for an error.
        let mut peer = open(&env, &format!("/v1/ws/{unknown}")).await;
        assert_eq!(peer.receive().await, Received::Gone);
    }
    let wrong = [
        "abcd",
        "jvg-n0FXB0kE3rGUIOS5Y",
        "jvg+n0FXB0kE3rGUIOS5Yw",
        "%FF%FE%FD%FC",
        "jvg-n0FXB0kE3rGUIOS5Yw%00",
        "jvg-n0FXB0kE3rGUIOS5Yw/",
        "a/b",
        "jvg-n0FXB0kE3rGUIOS5Yw===",
        "==",
        "%",
    ];
    for id in wrong {
        let answer = try_open(&env, "pair", &format!("/v1/ws/{id}"), &[]).await.err().expect("no upgrade");
        assert_eq!(answer.status, 404, "{id}");
    }
    assert_eq!(try_open(&env, "pair", "/v1/ws", &[]).await.err().expect("no upgrade").status, 404);
    assert_eq!(try_open(&env, "public", "/v1/ws/", &[]).await.err().expect("no role").status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_http_routes_exist() {
    let env = env("").await;
    let address = env.gateway.address("pair");
    let heartbeat = get(address, "/__heartbeat__").await;
    assert_eq!((heartbeat.status.as_u16(), heartbeat.header("content-type")), (200, "application/json"));
    assert_eq!(heartbeat.json(), json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}));
    let lbheartbeat = get(address, "/__lbheartbeat__").await;
    assert_eq!((lbheartbeat.status.as_u16(), lbheartbeat.text()), (200, ""));
    assert_eq!(get(address, "/__version__").await.json()["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(get(address, "/v1/ws/").await.status, 400);
    assert_eq!(get(address, "/").await.status, 404);
    for path in ["/v1/ws/", "/v1/ws/jvg-n0FXB0kE3rGUIOS5Yw", "/__heartbeat__"] {
        let request = Request::post(path).header("host", "x").body(Bytes::new()).unwrap();
        let answer = http::send(address, request).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "GET"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_pages_may_connect() {
    let env = env("").await;
    let headers = [("origin", "https://accounts.example.com")];
    assert!(try_open(&env, "pair", "/v1/ws/", &headers).await.is_ok());
    let refused = try_open(&env, "pair", "/v1/rooms", &headers).await.err().expect("no upgrade");
    assert_eq!(refused.status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nine_messages_fit_default_limits() {
    let env = env("").await;
    let (link, mut a) = channel(&env).await;
    let mut b = open(&env, &link).await;
    b.text().await;
    for n in 0..10 {
        let (from, to) = if n % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        from.send_text(&format!("message-{n}=")).await;
        assert_eq!(to.json().await["message"], format!("message-{n}="));
    }
    a.send_text("one too many").await;
    a.expect_close(4506, "message_limit").await;
    b.expect_close(4506, "message_limit").await;
}
