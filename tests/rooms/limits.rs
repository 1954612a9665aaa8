//! The limits of rooms, at their values and one above, in every form.

use std::time::{Duration, Instant};

use test_support::Received;

use crate::client::{FORMS, channel, decode, encode, env, open, pair, post_room};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_limit_ends_room() {
    let env = env("max_exchanges = 3").await;
    for form in FORMS {
        let (mut a, mut b) = pair(&env, form).await;
        for n in 0..3 {
            let (from, to) = if n == 1 { (&mut b, &mut a) } else { (&mut a, &mut b) };
            from.send_text(&encode(form, "x")).await;
            assert_eq!(decode(form, &to.text().await), "x");
        }
        b.send_text(&encode(form, "y")).await;
        a.expect_close(4506, "message_limit").await;
        b.expect_close(4506, "message_limit").await;
    }
    assert_eq!(env.metric(r#"lastmile_rooms_closed_total{reason="message_limit"}"#).await, 3.0);
    assert_eq!(env.metric("lastmile_room_messages_total").await, 9.0);
    assert_eq!(env.metric("lastmile_rooms_opened_total").await, 3.0);
    env.await_metric("lastmile_rooms", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn byte_limit_ends_room() {
    let env = env("max_data_bytes = 100\nmax_exchanges = 0").await;
    for form in FORMS {
        let (mut a, mut b) = pair(&env, form).await;
        // Bytes that the form counts around the text: the envelope, nothing, the quotes of JSON.
        let around = match form {
            "channelserver" => r#"{"message":"","sender":{"remote":"127.0.0.1"}}"#.len(),
            "relay" => 0,
            _ => 2,
        };
        a.send_text(&encode(form, &"x".repeat(50 - around))).await;
        b.text().await;
        b.send_text(&encode(form, &"x".repeat(50 - around))).await;
        a.text().await;
        a.send_text(&encode(form, "")).await;
        if form == "relay" {
            a.send_text("y").await;
            b.expect_texts(&[""]).await;
        }
        a.expect_close(4507, "data_limit").await;
        b.expect_close(4507, "data_limit").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lifespan_ends_busy_room() {
    let env = env("conn_lifespan_secs = 4\nmax_exchanges = 0").await;
    for form in FORMS {
        let began = Instant::now();
        let (mut a, mut b) = pair(&env, form).await;
        let end = loop {
            b.send_text(&encode(form, "x")).await;
            match a.receive().await {
                Received::Text(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                end => break end,
            }
        };
        assert_eq!(end, Received::Close(4505, "lifespan_expired".into()), "{form}");
        b.expect_close(4505, "lifespan_expired").await;
        let lived = began.elapsed();
        assert!(lived >= Duration::from_millis(3900) && lived < Duration::from_secs(30), "{form}: {lived:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnecting_resets_no_limit() {
    let env = env("max_exchanges = 4\nconn_lifespan_secs = 600").await;
    let (link, mut a) = channel(&env).await;
    for _ in 0..2 {
        let mut b = open(&env, &link).await;
        b.text().await;
        b.send_text("x").await;
        a.text().await;
        b.send_text("x").await;
        a.text().await;
        b.close(1000, "").await;
        b.receive().await;
    }
    let mut b = open(&env, &link).await;
    b.text().await;
    b.send_text("x").await;
    a.expect_close(4506, "message_limit").await;
    b.expect_close(4506, "message_limit").await;

    let mut a = open(&env, "/v1/relay/x").await;
    a.expect_texts(&["/status:waiting"]).await;
    for _ in 0..4 {
        let mut b = open(&env, "/v1/relay/x").await;
        b.expect_texts(&["/status:connected"]).await;
        b.send_text("x").await;
        a.expect_texts(&["/remote:open", "/status:connected", "x"]).await;
        drop(b);
        a.expect_texts(&["/remote:close", "/status:waiting"]).await;
    }
    let mut b = open(&env, "/v1/relay/x").await;
    b.expect_texts(&["/status:connected"]).await;
    b.send_text("x").await;
    a.expect_texts(&["/remote:open", "/status:connected"]).await;
    a.expect_close(4506, "message_limit").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frame_limit_is_64_kib() {
    let env = env("").await;
    for form in ["channelserver", "relay"] {
        let (mut a, mut b) = pair(&env, form).await;
        let most = "x".repeat(65_536);
        a.send_text(&most).await;
        assert_eq!(decode(form, &b.text().await), most);
        a.send_text(&format!("{most}x")).await;
        a.expect_close(1009, "message_too_big").await;
    }
    let (mut a, mut b) = pair(&env, "native").await;
    let text = "x".repeat(65_536 - encode("native", "").len());
    a.send_text(&encode("native", &text)).await;
    assert_eq!(decode("native", &b.text().await), text);
    a.send_text(&encode("native", &format!("{text}x"))).await;
    a.expect_close(1009, "message_too_big").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_peer_slows_sender_then_closes() {
    let env = crate::start(
        r#"
        [limits]
        outbox_stall_secs = 6
        [listeners.pair]
        address = "127.0.0.1:0"
        roles = ["pair"]
        [rooms]
        max_exchanges = 0
        "#,
    )
    .await;
    let (mut a, b) = pair(&env, "relay").await;
    let flood = async {
        let text = "x".repeat(60_000);
        // Far more than sockets and outboxes hold.
        for _ in 0..2_000 {
            if !a.try_send_text(&text).await {
                break;
            }
        }
    };
    // The sender is held back until its peer is given up.
    assert!(tokio::time::timeout(Duration::from_secs(3), flood).await.is_err());
    let relayed = env.metric("lastmile_room_messages_total").await;
    assert!(relayed < 500.0, "{relayed} messages were relayed to a peer that reads nothing");
    loop {
        match a.receive().await {
            Received::Text(text) if text == "/remote:close" => break,
            Received::Text(_) => {}
            other => panic!("expected `/remote:close`, got {other:?}"),
        }
    }
    drop(b);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_opens_a_share_of_rooms() {
    // Without a setting: 1 %, but at least 64.
    let env = env("max_rooms = 200").await;
    let opened = futures_util::future::join_all((0..80).map(|_| post_room(&env, serde_json::json!({})))).await;
    let statuses = |status| opened.iter().filter(|answer| answer.status == status).count();
    assert_eq!((statuses(201), statuses(429)), (64, 16));
    open(&env, "/v1/ws/").await.expect_close(4004, "rate_limited").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_peers_have_a_rate() {
    let env = crate::start(
        r#"
        [limits]
        max_commands_per_second = 2
        [listeners.pair]
        address = "127.0.0.1:0"
        roles = ["pair"]
        [rooms]
        max_exchanges = 0
        "#,
    )
    .await;
    for form in FORMS {
        let (mut a, mut b) = pair(&env, form).await;
        for n in 0..30 {
            a.feed(encode(form, &n.to_string())).await;
        }
        a.flush().await;
        while !matches!(a.receive().await, Received::Close(4004, _)) {}
        // The messages before it arrived.
        assert_eq!(decode(form, &b.text().await), "0");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_rooms_are_limited() {
    let env = env("max_rooms_per_address = 2").await;
    let mut peers = Vec::new();
    for _ in 0..2 {
        peers.push(channel(&env).await);
    }
    for _ in env.nodes() {
        open(&env, "/v1/ws/").await.expect_close(4004, "rate_limited").await;
        open(&env, "/v1/relay/x").await.expect_close(4004, "rate_limited").await;
        let refused = post_room(&env, serde_json::json!({})).await;
        assert_eq!(refused.refusal(), (429, "limit-reached".into()));
    }
}
