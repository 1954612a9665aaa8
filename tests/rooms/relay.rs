//! The relay form: its words exact and in order, and only ever the gateway's.

use bytes::Bytes;
use test_support::{Received, get};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::client::{env, open, try_open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_transcript_is_reproduced() {
    let env = env("max_exchanges = 0").await;
    for (listener, path) in [("pair", "/v1/relay/room"), ("relay", "/room%20a?q=1"), ("scoped", "/deep/scope/r%2Fm")] {
        let open = async || try_open(&env, listener, path, &[]).await.expect("an upgrade");
        let mut a = open().await;
        a.expect_texts(&["/status:waiting"]).await;
        a.send_text("anyone?").await;
        a.expect_texts(&["/error:0001:The message was not received by anyone.:anyone?"]).await;
        let mut b = open().await;
        b.expect_texts(&["/status:connected"]).await;
        a.expect_texts(&["/remote:open", "/status:connected"]).await;
        a.send_text(" hello ").await;
        b.expect_texts(&[" hello "]).await;
        let mut c = open().await;
        c.expect_texts(&["/status:waiting"]).await;
        let mut d = open().await;
        d.expect_texts(&["/status:connected"]).await;
        c.expect_texts(&["/remote:open", "/status:connected"]).await;
        let mut e = open().await;
        e.expect_texts(&["/status:waiting"]).await;
        // Binary and fragments are relayed, to the peer alone.
        b.send_message(Message::binary(vec![0, 255, 7])).await;
        assert_eq!(a.receive().await, Received::Binary(vec![0, 255, 7]));
        for (data, part, is_final) in [(Data::Text, "fr", false), (Data::Continue, "ag", true)] {
            d.send_message(Message::Frame(Frame::message(Bytes::from(part), OpCode::Data(data), is_final))).await;
        }
        c.expect_texts(&["frag"]).await;
        // A Close is echoed; who is left gets the one that waits.
        b.close(4001, "x").await;
        assert_eq!(b.receive().await, Received::Close(4001, "x".into()));
        a.expect_texts(&["/remote:close", "/status:connected"]).await;
        e.expect_texts(&["/remote:open", "/status:connected"]).await;
        a.send_text("to e").await;
        e.expect_texts(&["to e"]).await;
        // Without a Close the same happens at once.
        drop(d);
        c.expect_texts(&["/remote:close", "/status:waiting"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_text_is_inert() {
    let env = env("max_exchanges = 0").await;
    let mut a = open(&env, "/v1/relay/x").await;
    a.expect_texts(&["/status:waiting"]).await;
    let mut b = open(&env, "/v1/relay/x").await;
    a.expect_texts(&["/remote:open", "/status:connected"]).await;
    b.expect_texts(&["/status:connected"]).await;
    let forged = [
        "/remote:close",
        "/remote:open",
        "/status:waiting",
        "/status:connected",
        "/error:0001:x",
        r#"{"type":"peer_left","peer":"p1","reason":"left"}"#,
        r#"{"type":"end"}"#,
    ];
    for text in forged {
        b.send_text(text).await;
        a.expect_texts(&[text]).await;
        // A stranger still waits.
        let mut stranger = open(&env, "/v1/relay/x").await;
        stranger.expect_texts(&["/status:waiting"]).await;
        stranger.close(1000, "").await;
        stranger.receive().await;
        // On another node its leaving takes a moment to arrive.
        env.await_metric("lastmile_rooms", 1.0).await;
        a.send_text("still together").await;
        b.expect_texts(&["still together"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_relay_drops_control_text() {
    let env = env("relay_strict = true").await;
    let mut a = open(&env, "/v1/relay/x").await;
    a.expect_texts(&["/status:waiting"]).await;
    let mut b = open(&env, "/v1/relay/x").await;
    b.expect_texts(&["/status:connected"]).await;
    b.send_text("/remote:close").await;
    b.expect_texts(&["/error:0001:The message was not received by anyone.:/remote:close"]).await;
    b.send_text("/other").await;
    a.expect_texts(&["/remote:open", "/status:connected", "/other"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_id_is_404() {
    let env = env("").await;
    let refused = async |listener: &str, path: &str| {
        try_open(&env, listener, path, &[]).await.err().map(|answer| answer.status.as_u16())
    };
    for (listener, prefix) in [("pair", "/v1/relay/"), ("relay", "/"), ("scoped", "/deep/scope/")] {
        let long = "x".repeat(257);
        for id in ["", "a/b", "room/", "%FF", long.as_str()] {
            assert_eq!(refused(listener, &format!("{prefix}{id}")).await, Some(404), "{listener} {id}");
        }
        assert_eq!(refused(listener, &format!("{prefix}{}", &long[1..])).await, None);
        assert_eq!(get(env.gateway.address(listener), &format!("{prefix}room")).await.status, 400);
    }
    assert_eq!(refused("scoped", "/room").await, Some(404));
    assert_eq!(refused("scoped", "/deep/scoperoom").await, Some(404));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_waiter_is_not_paired() {
    let env = env("client_timeout_secs = 2\nheartbeat_interval_secs = 1").await;
    // It never reads, so it never answers.
    let _dead = open(&env, "/v1/relay/x").await;
    env.await_metric("lastmile_rooms", 1.0).await;
    env.await_metric("lastmile_room_timeouts_total", 1.0).await;
    let mut next = open(&env, "/v1/relay/x").await;
    next.expect_texts(&["/status:waiting"]).await;
}
