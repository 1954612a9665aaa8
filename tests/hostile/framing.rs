//! WebSocket frames that break the rules or the bounds (RFC 6455 sections 5 and 7).

use std::time::{Duration, Instant};

use serde_json::json;
use test_support::{TEST_TIMEOUT, with_timeout};
use tokio::io::AsyncWriteExt;

use crate::heavy;
use crate::node::{HealthySubscriber, Node, Setup};
use crate::raw::read_to_end;
use crate::ws::{
    BINARY, CLOSE, CONTINUATION, End, FIN, PING, PONG, RawWs, TEXT, announce, command, frame, masked, text, upgrade,
};

const TSLM: &str = "[listeners.tslm]\naddress = \"127.0.0.1:0\"\nroles = [\"tslm\"]\n\
                    default_endpoint_permissions = [\"Subscribe\", \"CreateChannel\", \"NotifyChannel\"]\nchannels = [\"*\"]\n";

/// A connection in every state in which frames are read.
async fn in_every_state(node: &Node) -> Vec<(&'static str, RawWs)> {
    let mut known = node.connect().await;
    known.hello().await;
    let tslm = RawWs::open(node.address("tslm"), "/", "").await.expect("an upgrade");
    vec![
        ("before hello", node.connect().await),
        ("after hello", known),
        ("subscribed", node.subscriber("open.state").await),
        ("publishing", node.publisher_ws().await),
        ("tslm", tslm),
    ]
}

#[tokio::test]
async fn huge_length_closes_one_connection() {
    let node = Node::start(Setup { more: TSLM, ..Setup::default() }).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    for length in [1 << 32, u64::MAX >> 1, 1 << 63, u64::MAX] {
        for first in (0..16).flat_map(|opcode| [opcode, FIN | opcode]) {
            for (state, mut ws) in in_every_state(&node).await {
                ws.send(&[announce(first, length), b"abc".to_vec()].concat()).await;
                let end = ws.end().await;
                assert!([1002, 1009].contains(&end.code()), "{state}, {first:#x}, {length:#x}: {end:?}");
            }
        }
        healthy.check_served(&node).await;
    }
}

#[tokio::test]
async fn empty_fragments_are_bounded_by_count() {
    let node = Node::start(Setup { more: TSLM, ..Setup::default() }).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    let flood = [frame(0x01, b""), frame(CONTINUATION, b"").repeat(200_000)].concat();
    for (state, mut ws) in in_every_state(&node).await {
        ws.send(&flood).await;
        let end = ws.end().await;
        // Bytes after the Close are not read, so the socket may be reset before the Close is seen.
        assert!(end == End::Cut || end.code() == 1009, "{state}: {end:?}");
    }
    healthy.check_served(&node).await;
    // The number of fragments is what ends it.
    let mut ws = node.connect().await;
    ws.hello().await;
    ws.send(&[frame(0x01, b""), frame(CONTINUATION, b"").repeat(1023)].concat()).await;
    ws.send(&frame(PING, b"still here")).await;
    assert_eq!(ws.frame().await.unwrap().payload, b"still here");
    ws.send(&frame(CONTINUATION, b"")).await;
    assert_eq!(ws.end().await, End::Close(1009, "message_too_big".into()));
}

#[tokio::test]
async fn tiny_fragments_are_bounded_by_sum() {
    let limits = "max_command_bytes = 500\nmax_fragments = 100000";
    let node = Node::start(Setup { limits, ..Setup::default() }).await;
    let ping = format!("{:<500}", r#"{"type":"ping","id":"1"}"#);
    let pieces = |text: &str, last: u8| -> Vec<u8> {
        let count = text.len();
        let piece = |(at, byte): (usize, u8)| {
            frame(if at == 0 { 0x01 } else { 0 } | if at + 1 == count { last } else { 0 }, &[byte])
        };
        text.bytes().enumerate().flat_map(piece).collect()
    };
    let mut ws = node.connect().await;
    ws.hello().await;
    ws.send(&pieces(&ping, FIN)).await;
    assert_eq!(ws.json().await["type"], "pong", "as many bytes as allowed");
    ws.send(&pieces(&format!("{ping} "), FIN)).await;
    assert_eq!(ws.end().await, End::Close(1009, "message_too_big".into()));
}

#[tokio::test]
async fn endless_message_meets_hello_deadline() {
    let node = Node::start(Setup { limits: "hello_secs = 1", ..Setup::default() }).await;
    let mut ws = node.connect().await;
    ws.send(&frame(0x01, b"{")).await;
    let begun = Instant::now();
    let end = loop {
        ws.send(&frame(CONTINUATION, b" ")).await;
        match tokio::time::timeout(Duration::from_millis(50), ws.frame()).await {
            Ok(Err(end)) => break end,
            Ok(Ok(other)) => panic!("{other:?}"),
            Err(_) => assert!(begun.elapsed() < TEST_TIMEOUT),
        }
    };
    assert_eq!(end, End::Close(4501, "unauthenticated".into()));
}

#[tokio::test]
async fn unauthenticated_budget_is_limited() {
    let limits = "hello_secs = 4\nmax_command_bytes = 1000\nmax_commands_per_second = 5";
    let node = Node::start(Setup { limits, ..Setup::default() }).await;
    let after = async |bytes: &[u8]| {
        let mut ws = node.connect().await;
        ws.send(bytes).await;
        ws.end().await
    };
    assert_eq!(after(b"").await, End::Close(4501, "unauthenticated".into()), "seconds");
    assert_eq!(after(&frame(PING, b"").repeat(49)).await.code(), 4501, "pings are no hello");
    assert_eq!(after(&frame(PONG, b"").repeat(60)).await, End::Close(4004, "rate_limited".into()), "frames");
    assert_eq!(after(&text(&" ".repeat(1001))).await, End::Close(1009, "message_too_big".into()), "bytes");
    assert_eq!(after(&text("GET / HTTP/1.1")).await, End::Close(4500, "malformed".into()));
    assert_eq!(after(&text("{}")).await.code(), 4500);
    assert_eq!(after(&text(r#"{"type":"hello","token":"x"}"#)).await, End::Close(4501, "unauthenticated".into()));
    assert_eq!(after(&frame(BINARY, b"hello")).await, End::Close(1003, "unsupported_data".into()));
    node.await_metric("lastmile_sockets", 1.0).await;
}

#[tokio::test]
async fn announced_length_holds_no_memory() {
    let _turn = heavy().await;
    // So that 60 MiB are allowed at all.
    let node = Node::start(Setup { limits: "max_batch_bytes = 67108864\nhello_secs = 300", ..Setup::default() }).await;
    node.publisher_ws().await.is_alive().await;
    let before = node.rss();
    let mut held = Vec::new();
    for _ in 0..500 {
        let mut publisher = node.publisher_ws().await;
        publisher.send(&[announce(TEXT, 60 << 20), masked(b"0123456789")].concat()).await;
        let mut subscriber = node.connect().await;
        subscriber.send(&[&frame(TEXT, &[b' '; 10_000])[..8], &masked(b"0123456789")].concat()).await;
        held.extend([publisher, subscriber]);
    }
    node.await_metric("lastmile_connections", 1000.0).await;
    let grown = node.rss().saturating_sub(before);
    assert!(grown < 1000 * 32, "{grown} KiB for 1000 connections");
}

#[tokio::test]
async fn unread_pongs_do_not_pile_up() {
    let _turn = heavy().await;
    let limits = "outbox_stall_secs = 2\nping_secs = 300\nhello_secs = 300";
    let node = Node::start(Setup { more: TSLM, limits, ..Setup::default() }).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    let before = node.rss();
    // More than the sockets' own buffers hold, there and back.
    let flood = frame(PING, &[b'p'; 125]).repeat(200_000);
    for (state, mut ws) in in_every_state(&node).await {
        node.reset_peak();
        // The gateway stops reading, or ends the connection, long before it has taken all this.
        let _ = tokio::time::timeout(Duration::from_secs(15), ws.stream.write_all(&flood)).await;
        let grown = node.peak().saturating_sub(before);
        assert!(grown < 8 * 1024, "{state}: {grown} KiB");
        let end = ws.end().await;
        assert!([0, 4001, 4004].contains(&end.code()), "{state}: {end:?}");
    }
    healthy.check_served(&node).await;
}

#[tokio::test]
async fn ping_flood_is_rate_limited() {
    let node = Node::start(Setup::default()).await;
    let mut ws = node.subscriber("open.flood").await;
    ws.send(&frame(PING, b"").repeat(2000)).await;
    assert_eq!(ws.end().await, End::Close(4004, "rate_limited".into()));
}

#[tokio::test]
async fn unmasked_frame_closes() {
    let node = Node::start(Setup { more: TSLM, ..Setup::default() }).await;
    for (state, mut ws) in in_every_state(&node).await {
        ws.send(b"\x81\x02{}").await;
        assert_eq!(ws.end().await, End::Close(1002, "protocol_error".into()), "{state}");
    }
}

#[tokio::test]
async fn invalid_frames_and_text_have_codes() {
    let node = Node::start(Setup { more: TSLM, ..Setup::default() }).await;
    let cases: [(&[u8], u16); 12] = [
        (&frame(TEXT, &[0xff, 0xfe]), 1007),
        (&[frame(0x01, &[0xc3]), frame(0x80, &[0x28])].concat(), 1007),
        (&frame(CLOSE, &[0x03, 0xe8, 0xff]), 1007),
        (&frame(0xc1, b"reserved bit"), 1002),
        (&frame(0x83, b"reserved opcode"), 1002),
        (&frame(0x8b, b"reserved control"), 1002),
        (&frame(0x09, b"half a ping"), 1002),
        (&frame(PING, &[0; 126]), 1002),
        (&frame(FIN, b"continuation of nothing"), 1002),
        (&frame(CLOSE, &[3]), 1002),
        (&frame(CLOSE, &1005u16.to_be_bytes()), 1002),
        (&[frame(0x01, b"a"), frame(TEXT, b"b")].concat(), 1002),
    ];
    for (bytes, code) in cases {
        for (state, mut ws) in in_every_state(&node).await {
            ws.send(bytes).await;
            assert_eq!(ws.end().await.code(), code, "{state}: {bytes:02x?}");
        }
    }
}

#[tokio::test]
async fn wrong_byte_ends_unfinished_text() {
    let node = Node::start(Setup { more: TSLM, ..Setup::default() }).await;
    let (lead, bad) = ("\u{20ac}".as_bytes(), [&b"ok"[..], &[0xff]].concat());
    // The first part of a frame that announces more.
    let part =
        |first: u8, payload: &[u8]| [&[first, 0x80 | 100][..], &[0x37, 0xfa, 0x21, 0x3d], &masked(payload)].concat();
    let cases = [
        vec![frame(0x01, &bad)],
        vec![part(TEXT, &bad)],
        vec![part(0x01, &bad)],
        vec![frame(0x01, &lead[..2]), frame(CONTINUATION, &[0x28])],
        vec![frame(0x01, &lead[..2]), part(FIN, &[0x28])],
        vec![frame(0x01, &lead[..2]), frame(PING, b"between"), part(CONTINUATION, &[lead[2], 0xc0])],
        // Every byte in a segment of its own.
        part(TEXT, &bad).into_iter().map(|byte| vec![byte]).collect(),
    ];
    for case in cases {
        for (state, mut ws) in in_every_state(&node).await {
            for segment in &case {
                ws.send(segment).await;
            }
            assert_eq!(ws.end().await.code(), 1007, "{state}: {case:02x?}");
        }
    }
    // A character may be split at any byte, also of its mask.
    for (state, mut ws) in in_every_state(&node).await {
        let text = format!(r#"{{"type":"hello","x":"{}"}}"#, "\u{20ac}\u{1f600}".repeat(3));
        let at = text.find('\u{20ac}').unwrap() + 1;
        let (first, second) = text.as_bytes().split_at(at);
        for byte in [frame(0x01, first), frame(PING, b""), frame(FIN, second)].concat() {
            ws.send(&[byte]).await;
        }
        let answer = ws.text().await;
        assert!(answer.is_ok(), "{state}: {answer:?}");
    }
}

#[tokio::test]
async fn stranger_gets_two_seconds_to_close() {
    let limits = "hello_secs = 1\nclose_secs = 600";
    let more = "[listeners.pair]\naddress = \"127.0.0.1:0\"\nroles = [\"pair\"]\n";
    let node = Node::start(Setup { limits, more, ..Setup::default() }).await;
    let join = command(json!({"type": "join", "secret": "x".repeat(22)}));
    let room = "/v1/rooms/jvg-n0FXB0kE3rGUIOS5Yw";
    let (subscribe, pair) = ("sec-websocket-protocol: lastmile.v1\r\n", "sec-websocket-protocol: lastmile.pair.v1\r\n");
    let bad = command(json!({"type": "hello", "token": "ey.bad.token"}));
    for (listener, path, headers, first) in [
        ("public", "/v1/subscribe", subscribe, Vec::new()),
        ("public", "/v1/subscribe", subscribe, bad),
        ("public", "/v1/subscribe", subscribe, text("no json")),
        ("public", "/v1/subscribe", "sec-websocket-protocol: other\r\n", Vec::new()),
        ("pair", room, pair, Vec::new()),
        ("pair", room, pair, join),
        ("pair", "/v1/rooms", pair, text("no json")),
    ] {
        let mut ws = RawWs::open(node.address(listener), path, headers).await.expect("an upgrade");
        ws.send(&first).await;
        // The Close is not answered.
        let rest = read_to_end(&mut ws.stream, TEST_TIMEOUT).await;
        assert!(rest.is_some_and(|rest| rest.first() == Some(&CLOSE)), "{path} {first:02x?}");
    }
}

#[tokio::test]
async fn message_limit_holds_to_the_byte() {
    let node = Node::start(Setup { limits: "max_command_bytes = 300", ..Setup::default() }).await;
    let mut ws = node.connect().await;
    ws.hello().await;
    ws.send(&text(&format!("{:<300}", r#"{"type":"ping"}"#))).await;
    assert_eq!(ws.json().await["type"], "pong");
    ws.send(&text(&format!("{:<301}", r#"{"type":"ping"}"#))).await;
    assert_eq!(ws.end().await, End::Close(1009, "message_too_big".into()));
}

#[tokio::test]
async fn deep_json_is_refused() {
    let node = Node::start(Setup::default()).await;
    let mut ws = node.connect().await;
    ws.hello().await;
    let deep = "[".repeat(60_000);
    ws.send(&text(&deep)).await;
    assert_eq!(ws.json().await["code"], "malformed");
    ws.send(&text(&format!(r#"{{"type":"ping","x":{}{}}}"#, "[".repeat(40), "]".repeat(40)))).await;
    assert_eq!(ws.json().await["code"], "malformed");
    ws.is_alive().await;
    let mut publisher = node.publisher_ws().await;
    publisher.send(&command(json!({"type": "publish", "id": "1", "channel": "open.a", "data": 1}))).await;
    assert_eq!(publisher.json().await["type"], "published");
    publisher.send(&text(&format!(r#"{{"type":"publish","channel":"open.a","data":{deep}}}"#))).await;
    assert_eq!(publisher.json().await["code"], "malformed");
    publisher.is_alive().await;
}

#[tokio::test]
async fn control_frames_between_fragments() {
    let node = Node::start(Setup::default()).await;
    let mut ws = node.connect().await;
    ws.hello().await;
    let pieces = [frame(0x01, br#"{"type":"#), frame(PING, b"1"), frame(CONTINUATION, br#""ping""#), frame(PING, b"2")];
    ws.send(&pieces.concat()).await;
    for expected in [b"1", b"2"] {
        let pong = ws.frame().await.unwrap();
        assert_eq!((pong.first, &pong.payload[..]), (PONG, &expected[..]));
    }
    ws.send(&frame(FIN, b"}")).await;
    assert_eq!(ws.json().await, json!({"type": "pong"}));
}

#[tokio::test]
async fn close_is_echoed_and_socket_ends() {
    let node = Node::start(Setup { more: TSLM, ..Setup::default() }).await;
    let normal = [&1000u16.to_be_bytes()[..], b"bye"].concat();
    for payload in [&normal[..], b"", &1001u16.to_be_bytes(), &4999u16.to_be_bytes()] {
        for (state, mut ws) in in_every_state(&node).await {
            // Frames after a Close are ignored.
            ws.send(&[frame(CLOSE, payload), b"\xff\xff\xffnonsense".to_vec()].concat()).await;
            let Err(End::Close(code, reason)) = ws.frame().await else { panic!("{state}: no Close") };
            let mut echo = if payload.is_empty() { Vec::new() } else { code.to_be_bytes().to_vec() };
            echo.extend(reason.into_bytes());
            assert_eq!(echo, payload, "{state}");
            let rest = read_to_end(&mut ws.stream, TEST_TIMEOUT).await;
            assert_eq!(rest.as_deref(), Some(&b""[..]), "{state}");
        }
    }
    node.await_metric("lastmile_connections", 0.0).await;
}

#[tokio::test]
async fn unanswered_close_ends_socket() {
    let node = Node::start(Setup { limits: "hello_secs = 1\nclose_secs = 1", ..Setup::default() }).await;
    let mut ws = node.connect().await;
    assert_eq!(ws.frame().await.unwrap_err(), End::Close(4501, "unauthenticated".into()));
    let begun = Instant::now();
    // Still talking, but not answering.
    while begun.elapsed() < TEST_TIMEOUT {
        ws.send(&frame(PING, b"")).await;
        if let Some(rest) = read_to_end(&mut ws.stream, Duration::from_millis(100)).await {
            assert_eq!(rest, b"", "nothing comes after a Close");
            return node.await_metric("lastmile_connections", 0.0).await;
        }
    }
    panic!("the socket is still open");
}

#[tokio::test]
async fn frames_with_upgrade_are_kept() {
    let node = Node::start(Setup::default()).await;
    let early = [
        upgrade("/v1/subscribe", "gateway", ""),
        text(r#"{"type":"hello"}"#),
        command(json!({"type": "subscribe", "id": "1", "channel": "open.early"})),
        frame(PING, b"early"),
    ];
    for _ in 0..20 {
        let mut ws = RawWs::over(crate::raw::connect(node.public()).await, &early.concat()).await.unwrap();
        assert_eq!(ws.json().await["type"], "welcome");
        assert_eq!(ws.json().await["type"], "subscribed");
        assert_eq!(with_timeout("a pong", ws.frame()).await.unwrap().payload, b"early");
        ws.is_alive().await;
    }
}
