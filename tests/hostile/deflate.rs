//! permessage-deflate (RFC 7692): what is offered, what is compressed, and what a peer may make the gateway inflate.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use futures_util::future::join_all;
use serde_json::json;

use crate::heavy;
use crate::node::{HealthySubscriber, Node, Setup};
use crate::ws::{CLOSE, CONTINUATION, DEFLATED, End, FIN, PING, RawWs, TEXT, command, frame, text};

const PATH: &str = "/v1/subscribe";
const OFFER: &str = "sec-websocket-protocol: lastmile.v1\r\nsec-websocket-extensions: permessage-deflate; \
                     client_max_window_bits\r\n";
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

const COMPRESSING: Setup<'_> =
    Setup { public: "compression = true", limits: "", top: "", more: "", log: "info", ulimit: "" };

/// The payload of a compressed message.
pub fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut state = Compress::new(Compression::best(), false);
    let mut deflated = Vec::with_capacity(bytes.len() + 100);
    state.compress_vec(bytes, &mut deflated, FlushCompress::Sync).unwrap();
    assert!(deflated.ends_with(&[0, 0, 0xff, 0xff]));
    deflated.truncate(deflated.len() - 4);
    deflated
}

/// Inflates a message. No context is kept between messages.
pub fn inflate(deflated: &[u8]) -> Vec<u8> {
    let mut state = Decompress::new(false);
    let mut bytes = Vec::with_capacity(1 << 20);
    state.decompress_vec(&[deflated, &[0, 0, 0xff, 0xff]].concat(), &mut bytes, FlushDecompress::Sync).unwrap();
    assert_eq!(state.total_in(), deflated.len() as u64 + 4, "the gateway's data ends early");
    bytes
}

async fn connect(node: &Node) -> RawWs {
    let ws = RawWs::open(node.public(), PATH, OFFER).await.expect("an upgrade");
    assert_eq!(ws.extension.as_deref(), Some(ANSWER));
    ws
}

/// After `hello`, which went compressed.
async fn greeted(node: &Node) -> RawWs {
    let mut ws = connect(node).await;
    ws.send(&frame(DEFLATED, &deflate(br#"{"type":"hello"}"#))).await;
    assert_eq!(ws.json().await["type"], "welcome");
    ws
}

#[tokio::test]
async fn compression_is_off_by_default() {
    let plain = Node::start(Setup::default()).await;
    assert_eq!(RawWs::open(plain.public(), PATH, OFFER).await.unwrap().extension, None);
    let node = Node::start(COMPRESSING).await;
    assert_eq!(RawWs::open(node.public(), PATH, "").await.unwrap().extension, None);
    let offering =
        async |offer: &str| RawWs::open(node.public(), PATH, &format!("sec-websocket-extensions: {offer}\r\n")).await;
    // A window that is smaller cannot be kept to, the next offer can be.
    assert_eq!(offering("permessage-deflate; server_max_window_bits=10").await.unwrap().extension, None);
    let second = "permessage-deflate; server_max_window_bits=10, permessage-deflate";
    assert_eq!(offering(second).await.unwrap().extension.as_deref(), Some(ANSWER));
    let refused = offering("permessage-deflate; =").await.err().expect("a refusal");
    assert_eq!((refused.status, refused.problem()), (400, "malformed".into()));
}

#[tokio::test]
async fn secret_channels_are_not_compressed() {
    let more = "[[channels]]\nmatch = \"open.secret\"\nsubscribers = \"anyone\"\ncompress = false\nbacklog_messages = 9\n\
                [[channels]]\nmatch = \"open.kept\"\nsubscribers = \"anyone\"\nbacklog_messages = 9\n";
    let node = Node::start(Setup { more, ..COMPRESSING }).await;
    let long = json!("a price that hardly moves ".repeat(40));
    let noise: String = std::iter::repeat_with(|| lastmile_client::signature::fresh_nonce().unwrap()).take(3).collect();
    let mut takes = greeted(&node).await;
    let mut plain = node.connect().await;
    plain.hello().await;
    assert_eq!(takes.deflated, 0, "answers go as they are");
    for (channel, data, deflated) in [
        ("open.a", &long, 1),
        ("open.a", &json!("short"), 0),
        ("open.a", &json!([noise, long]), 1),
        ("open.kept", &long, 1),
        ("open.secret", &long, 0),
    ] {
        for ws in [&mut takes, &mut plain] {
            ws.send(&command(json!({"type": "subscribe", "id": "s", "channel": channel}))).await;
            ws.json().await;
            ws.deflated = 0;
        }
        node.publish(channel, &data.to_string()).await;
        let (one, other) = (takes.json().await, plain.json().await);
        assert_eq!((&one, &one["data"]), (&other, data));
        let due = if data.to_string().len() < 100 { (takes.deflated, plain.deflated) } else { (deflated, 0) };
        assert_eq!((takes.deflated, plain.deflated), due, "{channel}");
    }
    // Backlog is encoded for each reader, so it is not compressed.
    let mut late = greeted(&node).await;
    late.send(&command(json!({"type": "subscribe", "id": "s", "channel": "open.kept", "backlog": 1}))).await;
    assert_eq!(late.json().await["type"], "subscribed");
    assert_eq!((late.json().await["data"].clone(), late.deflated), (long, 0));
}

#[tokio::test]
async fn compressed_messages_are_read() {
    let more = "[listeners.squeezed]\naddress = \"127.0.0.1:0\"\nroles = [\"publish\"]\ncompression = true\n";
    let node = Node::start(Setup { more, ..COMPRESSING }).await;
    let mut ws = greeted(&node).await;
    ws.is_alive().await;
    let ping = deflate(format!(r#"{{"type":"ping","id":"x"}}{}"#, " ".repeat(500)).as_bytes());
    for at in 0..ping.len() {
        let (first, second) = ping.split_at(at);
        let fragments = [
            frame(DEFLATED & !FIN, first),
            frame(PING, b"between"),
            frame(CONTINUATION, b""),
            frame(CONTINUATION | FIN, second),
        ];
        ws.send(&fragments.concat()).await;
        assert_eq!(ws.json().await, json!({"type": "pong", "id": "x"}));
    }
    // A publisher's, a thousand in one write.
    let mut reader = greeted(&node).await;
    reader.subscribe("open.a").await;
    let mut publisher = node.publisher_ws_at("squeezed", "sec-websocket-extensions: permessage-deflate\r\n").await;
    assert_eq!(publisher.extension.as_deref(), Some(ANSWER));
    let one = |n: usize| format!(r#"{{"type":"publish","channel":"open.a","data":"{}"}}"#, n.to_string().repeat(100));
    let all: Vec<u8> = (0..1000).flat_map(|n| frame(DEFLATED, &deflate(one(n).as_bytes()))).collect();
    publisher.send(&all).await;
    for n in 0..1000 {
        assert_eq!(publisher.json().await["type"], "published");
        let message = reader.json().await;
        assert_eq!((&message["offset"], &message["data"]), (&json!(n + 1), &json!(n.to_string().repeat(100))));
    }
    assert_eq!(reader.deflated, 1000);
}

#[tokio::test]
async fn invalid_deflate_is_protocol_error() {
    let node = Node::start(COMPRESSING).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    let hello = deflate(br#"{"type":"hello"}"#);
    let whole = [frame(DEFLATED, &hello)].concat();
    let mut without = node.connect().await;
    without.send(&whole).await;
    assert_eq!(without.end().await.code(), 1002, "nothing was negotiated");
    let forbidden = [
        ("on a ping", frame(PING | 0x40, b"")),
        ("on a close", frame(CLOSE | 0x40, b"")),
        ("on a continuation", [frame(DEFLATED & !FIN, &hello), frame(CONTINUATION | 0x40, b"")].concat()),
        ("on the second fragment alone", [frame(TEXT & !FIN, b"{"), frame(FIN | 0x40, &hello)].concat()),
        ("another reserved bit", frame(TEXT | 0x60, &hello)),
        ("rubbish", frame(DEFLATED, &[0xff; 40])),
        ("text that was not compressed", frame(DEFLATED, br#"{"type":"hello"}"#)),
        ("data behind the end", frame(DEFLATED, &[0x03, 0x00, 0xf2, 0x48, 0xcd])),
    ];
    for (what, bytes) in forbidden {
        let mut ws = connect(&node).await;
        ws.send(&bytes).await;
        assert_eq!(ws.end().await, End::Close(1002, "protocol_error".into()), "{what}");
    }
    let mut ws = connect(&node).await;
    ws.send(&frame(DEFLATED, &deflate(b"\"\xff\""))).await;
    assert_eq!(ws.end().await.code(), 1007);
    healthy.check_served(&node).await;
}

const LIMIT: usize = 100 * 1024;

#[tokio::test]
async fn inflated_size_counts_at_any_ratio() {
    let node = Node::start(Setup { limits: "max_command_bytes = 102400", ..COMPRESSING }).await;
    for ratio in [1, 2, 10, 30, 100, 300, 1000] {
        let noise: String = std::iter::repeat_with(|| lastmile_client::signature::fresh_nonce().unwrap())
            .take(LIMIT / ratio / 32)
            .collect();
        let exactly = |length: usize| {
            let head = format!(r#"{{"type":"ping","id":"x","data":"{}"}}"#, &noise[..noise.len().min(90_000)]);
            format!("{head}{}", " ".repeat(length - head.len()))
        };
        let mut ws = greeted(&node).await;
        ws.send(&frame(DEFLATED, &deflate(exactly(LIMIT).as_bytes()))).await;
        assert_eq!(ws.json().await["type"], "pong", "1:{ratio}");
        let deflated = deflate(exactly(LIMIT + 1).as_bytes());
        let half = deflated.len() / 2;
        ws.send(&[frame(DEFLATED & !FIN, &deflated[..half]), frame(FIN, &deflated[half..])].concat()).await;
        assert_eq!(ws.end().await, End::Close(1009, "message_too_big".into()), "1:{ratio}");
    }
    // Before it is known who this is, there is room for a token.
    let mut stranger = connect(&node).await;
    let padded = format!(r#"{{"type":"hello"}}{}"#, " ".repeat(80 * 1024));
    stranger.send(&frame(DEFLATED, &deflate(padded.as_bytes()))).await;
    assert_eq!(stranger.end().await.code(), 1009);
}

#[tokio::test]
async fn two_hundred_bombs_cost_no_memory() {
    let _turn = heavy().await;
    let node = Node::start(Setup { limits: "max_command_bytes = 102400", ..COMPRESSING }).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    let bomb = deflate(&vec![b' '; 100 << 20]);
    assert!((90_000..LIMIT).contains(&bomb.len()), "{} bytes that inflate to 100 MiB", bomb.len());
    let bomb = frame(DEFLATED, &bomb);
    let mut sockets = join_all((0..200).map(|_| greeted(&node))).await;
    let before = node.rss();
    node.reset_peak();
    let ends = join_all(sockets.iter_mut().map(async |ws| {
        ws.send(&bomb).await;
        ws.end().await.code()
    }))
    .await;
    assert_eq!(ends, [1009; 200]);
    let growth = node.peak().saturating_sub(before);
    assert!(growth <= 200 * 2 * LIMIT as u64 / 1024, "{growth} KiB for 200 bombs");
    healthy.check_served(&node).await;
}

#[tokio::test]
async fn many_small_bombs_run_in_sequence() {
    let _turn = heavy().await;
    let node = Node::start(COMPRESSING).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    let mut ws = greeted(&node).await;
    let ping = deflate(format!(r#"{{"type":"ping","id":"x"}}{}"#, " ".repeat(65_000)).as_bytes());
    let many = frame(DEFLATED, &ping).repeat(800);
    let before = node.rss();
    node.reset_peak();
    ws.send(&many).await;
    for _ in 0..800 {
        assert_eq!(ws.json().await["type"], "pong");
    }
    let growth = node.peak().saturating_sub(before);
    assert!(growth < 16 * 1024, "{growth} KiB for 50 MiB of blanks");
    ws.send(&text(r#"{"type":"ping","id":"alive"}"#)).await;
    assert_eq!(ws.json().await["id"], "alive");
    healthy.check_served(&node).await;
}
