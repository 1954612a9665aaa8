//! The HTTP front: framing, slow clients, bodies, and requests that no browser sends (RFC 9110, RFC 9112).

use std::time::{Duration, Instant};

use test_support::TEST_TIMEOUT;

use crate::node::{HealthySubscriber, Node, Setup};
use crate::raw::{Reply, ask, connect, read_reply, read_to_end, send};
use crate::ws::upgrade;

const PATH: &str = "/v1/subscribe";

/// Long enough that the request, and not a timeout, closes the connection.
const PATIENT: Setup<'_> =
    Setup { public: "", limits: "handshake_secs = 300", top: "", more: "", log: "info", ulimit: "" };

/// Duration of a client that sends a byte now and then.
const TRICKLE: Duration = Duration::from_secs(30);

/// How many responses are in `bytes`.
fn responses(bytes: &[u8]) -> usize {
    bytes.windows(9).filter(|window| window == b"HTTP/1.1 ").count()
}

#[tokio::test]
async fn request_after_refused_upgrade_is_ignored() {
    let node = Node::start(PATIENT).await;
    let second = b"GET /problems/malformed HTTP/1.1\r\nhost: gateway\r\n\r\n";
    let foo = format!("GET {PATH} HTTP/1.1\r\nhost: gateway\r\nconnection: Upgrade\r\nupgrade: foo\r\n\r\n");
    let bad_version = upgrade(PATH, "gateway", "sec-websocket-version: 7\r\n");
    let bad_origin = upgrade(PATH, "gateway", "origin: https://evil.example\r\n");
    let nowhere = upgrade("/nowhere", "gateway", "");
    for first in [foo.into_bytes(), bad_version, bad_origin, nowhere] {
        let mut stream = connect(node.public()).await;
        send(&mut stream, &[&first[..], second].concat()).await;
        let all = read_to_end(&mut stream, TEST_TIMEOUT).await.expect("the connection is closed");
        assert_eq!(responses(&all), 1, "{}", String::from_utf8_lossy(&all));
        assert!(all.starts_with(b"HTTP/1.1 4"));
    }
    // Behind a good upgrade there is no HTTP any more.
    let mut stream = connect(node.public()).await;
    send(&mut stream, &[&upgrade(PATH, "gateway", "")[..], second].concat()).await;
    let all = read_to_end(&mut stream, TEST_TIMEOUT).await.expect("the connection is closed");
    assert!(all.starts_with(b"HTTP/1.1 101 ") && responses(&all) == 1, "{}", String::from_utf8_lossy(&all));
}

/// Header lines that leave a doubt about where a request ends, and whether a lenient reading is safe because the
/// connection ends with the answer.
const FRAMINGS: [(&str, &str); 13] = [
    ("two kinds of length", "content-length: 5\r\ntransfer-encoding: chunked\r\n"),
    ("two kinds of length, the other way", "transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
    ("two lengths", "content-length: 5\r\ncontent-length: 6\r\n"),
    ("a list of lengths", "content-length: 5, 6\r\n"),
    ("a signed length", "content-length: +5\r\n"),
    ("a negative length", "content-length: -5\r\n"),
    ("a length that overflows", "content-length: 18446744073709551616\r\n"),
    ("an unknown coding", "transfer-encoding: xchunked\r\n"),
    ("chunked is not the last coding", "transfer-encoding: chunked, identity\r\n"),
    ("a folded line", "content-length: 5\r\nx-folded: a\r\n b\r\n"),
    ("a space before the colon", "content-length : 5\r\n"),
    ("a NUL in a value", "x-nul: a\0b\r\n"),
    ("a bare CR in a value", "x-cr: a\rcontent-length: 5\r\n"),
];

#[tokio::test]
async fn ambiguous_framing_closes() {
    let node = Node::start(PATIENT).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    let second = "GET /problems/malformed HTTP/1.1\r\nhost: gateway\r\n\r\n";
    for (what, lines) in FRAMINGS {
        let plain = |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nhost: gateway\r\n{lines}\r\n");
        let upgrade = String::from_utf8(upgrade(PATH, "gateway", lines)).unwrap();
        let get = plain("GET", "/problems/malformed");
        for head in [get, plain("POST", "/v1/channels/a/messages"), plain("POST", PATH), upgrade] {
            for body in ["0\r\n\r\n", "hello", ""] {
                for listener in ["public", "publish", "ops"] {
                    let mut stream = connect(node.address(listener)).await;
                    send(&mut stream, format!("{head}{body}{second}").as_bytes()).await;
                    let all = read_to_end(&mut stream, TEST_TIMEOUT).await;
                    let all = all.unwrap_or_else(|| panic!("{what}: the connection stays: {head}{body}"));
                    assert!(responses(&all) <= 1, "{what}: {}", String::from_utf8_lossy(&all));
                    assert!(!all.starts_with(b"HTTP/1.1 101"), "{what}: {}", String::from_utf8_lossy(&all));
                }
            }
        }
    }
    healthy.check_served(&node).await;
}

#[tokio::test]
async fn chunks_and_lines_are_strict() {
    let node = Node::start(PATIENT).await;
    let chunked = |body: &str| {
        format!("POST {PATH} HTTP/1.1\r\nhost: gateway\r\ntransfer-encoding: chunked\r\n\r\n{body}").into_bytes()
    };
    let second = "GET /problems/malformed HTTP/1.1\r\nhost: gateway\r\n\r\n";
    for body in [
        "5\nhello\n0\n\n",
        "5;a=\"\n\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello",
        "5 5\r\nhello\r\n",
        "-1\r\n",
    ] {
        let mut stream = connect(node.public()).await;
        send(&mut stream, &[chunked(body), second.into()].concat()).await;
        let all = read_to_end(&mut stream, TEST_TIMEOUT).await.expect("the connection is closed");
        assert!(responses(&all) <= 1, "{body:?}: {}", String::from_utf8_lossy(&all));
    }
    // HTTP/1.0 knows no chunks, and its connection ends with the answer.
    for lines in ["", "content-length: 0\r\n", "transfer-encoding: chunked\r\n"] {
        let mut stream = connect(node.public()).await;
        let request = format!("GET /problems/malformed HTTP/1.0\r\nhost: gateway\r\n{lines}\r\n{second}");
        send(&mut stream, request.as_bytes()).await;
        let all = read_to_end(&mut stream, TEST_TIMEOUT).await.expect("the connection is closed");
        assert!(responses(&all) <= 1, "{}", String::from_utf8_lossy(&all));
    }
}

#[tokio::test]
async fn slow_requests_are_cut_off() {
    let node = Node::start(Setup { limits: "handshake_secs = 3", ..Setup::default() }).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    let publish = node.address("publish");
    let slow_body = |more: &str| {
        let whole = node.signed_bytes("POST", "/v1/channels/open.a/messages", Some(("application/json", b"[12345]")));
        let whole = String::from_utf8(whole).unwrap();
        whole.replace("content-length: 7\r\n", more).trim_end_matches("[12345]").to_owned()
    };
    let unsigned =
        &format!("POST /v1/channels/open.a/messages HTTP/1.1\r\nhost: {publish}\r\ncontent-length: 7\r\n\r\n");
    let get = "GET /problems/malformed HTTP/1.1\r\nhost: gateway\r\n";
    let cases = [
        ("says nothing", node.public(), String::new(), ""),
        ("a byte at a time", node.public(), get.to_owned(), "x-slow-header"),
        ("half a head", node.public(), get.to_owned(), ""),
        ("a body that never ends", publish, slow_body("content-length: 7\r\n"), ""),
        ("chunks that never end", publish, slow_body("transfer-encoding: chunked\r\n"), ""),
        ("a body of a stranger", publish, unsigned.to_owned(), ""),
        ("silence after an answer", node.public(), format!("{get}\r\n"), ""),
    ];
    for (what, address, first, rest) in cases {
        let mut stream = connect(address).await;
        send(&mut stream, first.as_bytes()).await;
        let (mut read, mut write) = stream.split();
        let begun = Instant::now();
        let trickle = async {
            for byte in rest.bytes().cycle().take(if rest.is_empty() { 0 } else { 200 }) {
                tokio::time::sleep(Duration::from_millis(300)).await;
                send(&mut write, &[byte]).await;
            }
            std::future::pending().await
        };
        let ended = tokio::select! {
            all = read_to_end(&mut read, TRICKLE) => all.is_some(),
            () = trickle => false,
        };
        assert!(ended, "{what}: still open after {:?}", begun.elapsed());
        healthy.check_served(&node).await;
    }
}

#[tokio::test]
async fn unread_answer_is_cut_off() {
    let limits = "handshake_secs = 1\nclose_secs = 1\noutbox_stall_secs = 1";
    let node = Node::start(Setup { limits, ..Setup::default() }).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    let before = node.rss();
    let mut stream = connect(node.address("ops")).await;
    let flood = b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".repeat(10_000);
    // The write fails when the gateway has had enough.
    let written = tokio::time::timeout(TEST_TIMEOUT, async {
        use tokio::io::AsyncWriteExt;
        while stream.write_all(&flood).await.is_ok() {}
    });
    assert!(written.await.is_ok(), "the gateway waits for ever for a client that does not read");
    assert!(node.rss().saturating_sub(before) < 8 * 1024, "{} KiB before, {} after", before, node.rss());
    healthy.check_served(&node).await;
}

#[tokio::test]
async fn oversized_body_is_refused() {
    let limits = "max_batch_bytes = 100000";
    let more = "[channel_defaults]\nmax_message_bytes = 1000";
    let node = Node::start(Setup { limits, more, ..Setup::default() }).await;
    let filled = |length: usize| [&b"\""[..], &vec![b'a'; length - 2], b"\""].concat();
    let json = "application/json";
    let messages = "/v1/channels/open.a/messages";
    let status = async |method: &str, path: &str, kind: &str, body: &[u8]| {
        let reply = node.signed(method, path, Some((kind, body))).await;
        (reply.status, if reply.status < 300 { String::new() } else { reply.problem() })
    };
    let too_large = (413, "message-too-large".to_owned());
    assert_eq!(status("POST", messages, json, &filled(1000)).await.0, 200);
    assert_eq!(status("POST", messages, json, &filled(1001)).await, too_large);
    let line = [&filled(999)[..], b"\n"].concat();
    assert_eq!(status("POST", messages, "application/x-ndjson", &line.repeat(100)).await.0, 200);
    assert_eq!(
        status("POST", messages, "application/x-ndjson", &[line.repeat(100), b" ".into()].concat()).await,
        too_large
    );
    for (method, path) in
        [("PUT", "/v1/channels/open.b"), ("GET", "/v1/channels/open.b"), ("DELETE", "/v1/channels/open.b")]
    {
        assert_eq!(status(method, path, json, &[b' '; 4097]).await, too_large, "{method}");
    }
    // Without an end: it is refused when it is too large, not when it ends.
    let signed = node.signed_bytes("POST", messages, Some((json, b"1")));
    let head = String::from_utf8(signed).unwrap().replace("content-length: 1\r\n", "transfer-encoding: chunked\r\n");
    let mut stream = connect(node.address("publish")).await;
    send(&mut stream, head.trim_end_matches('1').as_bytes()).await;
    for _ in 0..20 {
        send(&mut stream, format!("64\r\n{}\r\n", " ".repeat(100)).as_bytes()).await;
    }
    assert_eq!(read_reply(&mut stream).await.unwrap().problem(), "message-too-large");

    // Routes that want no body hold none.
    let before = node.rss();
    for (listener, path) in
        [("public", PATH), ("ops", "/metrics"), ("ops", "/healthz"), ("public", "/problems/malformed")]
    {
        let mut stream = connect(node.address(listener)).await;
        let head = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 50000000\r\n\r\n");
        send(&mut stream, head.as_bytes()).await;
        let reply = read_reply(&mut stream).await.unwrap();
        assert!([200, 400, 413, 426].contains(&reply.status), "{path}: {reply:?}");
        send(&mut stream, &vec![b'a'; 50_000_000]).await;
    }
    assert!(node.rss().saturating_sub(before) < 8 * 1024);
}

#[tokio::test]
async fn delimiter_batch_is_bounded() {
    let node = Node::start(Setup::default()).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    node.publish("open.a", "1").await;
    let size = 4 << 20;
    for (unit, status) in [
        ("\n", 400),
        (" \n", 400),
        ("0\n", 413),
        ("[", 400),
        ("[\n", 400),
        ("{\"a\":", 400),
        ("\"\\u0000\"\n", 413),
        ("\"\\u0000", 400),
        ("\\", 400),
        ("\0", 400),
        ("\"", 400),
        ("1e400\n", 413),
    ] {
        let body = unit.repeat(size / unit.len());
        let before = node.rss();
        node.reset_peak();
        let reply = node.post("open.a", "application/x-ndjson", body.as_bytes()).await;
        // The body twice while it grows, and nothing for each of its lines.
        let grown = node.peak().saturating_sub(before);
        assert!(grown < 24 * 1024, "{unit:?}: {grown} KiB");
        assert!([status, 400].contains(&reply.status), "{unit:?}: {reply:?}");
        assert!(reply.body.len() < 1000, "{unit:?}: the answer has {} bytes", reply.body.len());
    }
    assert_eq!(node.publish("open.a", "2").await["offset"], 2, "nothing of all that was published");
    healthy.check_served(&node).await;
}

#[tokio::test]
async fn odd_requests_cost_one_connection() {
    let node = Node::start(Setup::default()).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    for target in [
        "CONNECT example.com:80",
        "CONNECT /v1/subscribe",
        "OPTIONS *",
        "GET *",
        "GET http://gateway/v1/subscribe",
        "GET http://evil.example/",
        "GET http://",
        "GET //",
        "GET /%",
        "GET /%00",
        "GET /v1/channels/%ff%fe",
        "GET /v1/channels/..%2f..%2fetc%2fpasswd",
        "GET /../../etc/passwd",
        "GET /problems/%2e%2e%2f",
        "GET /problems/\u{e9}",
        "GET /?",
        "GET /#fragment",
        "GET",
        "",
        "GET /v1/subscribe HTTP/9.9\r\nx:",
        "PRI * HTTP/2.0\r\n\r\nSM",
        "\u{16}\u{3}\u{1}",
    ] {
        for listener in ["public", "publish", "ops"] {
            let request = format!("{target} HTTP/1.1\r\nhost: gateway\r\n\r\n");
            let mut stream = connect(node.address(listener)).await;
            send(&mut stream, request.as_bytes()).await;
            let reply = read_reply(&mut stream).await;
            assert!(reply.as_ref().is_none_or(|reply| (400..500).contains(&reply.status)), "{target:?}: {reply:?}");
        }
    }
    healthy.check_served(&node).await;
}

#[tokio::test]
async fn unknown_methods_are_refused() {
    let node = Node::start(Setup::default()).await;
    for method in ["TRACE", "TRACK", "PATCH", "OPTIONS", "PROPFIND", "get", "X"] {
        for (listener, path) in [
            ("public", PATH),
            ("publish", "/v1/publish"),
            ("publish", "/v1/channels/a"),
            ("publish", "/v1/channels/a/messages"),
            ("ops", "/metrics"),
            ("ops", "/healthz"),
            ("public", "/problems/malformed"),
        ] {
            let host = node.address(listener);
            let request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nx-canary: 4711\r\n\r\n");
            let reply = ask(node.address(listener), request.as_bytes()).await.unwrap();
            assert_eq!((reply.status, reply.problem()), (405, "method-not-allowed".into()), "{method} {path}");
            assert!(!reply.text().contains("4711"), "TRACE is off");
        }
    }
}

#[tokio::test]
async fn listener_serves_own_roles_only() {
    let node = Node::start(Setup::default()).await;
    for (listener, path) in [
        ("public", "/metrics"),
        ("public", "/healthz"),
        ("public", "/v1/publish"),
        ("public", "/v1/channels/a"),
        ("publish", PATH),
        ("publish", "/metrics"),
        ("ops", PATH),
        ("ops", "/v1/channels/a"),
    ] {
        let authority = node.address(listener).to_string();
        for request in [
            upgrade(path, &authority, ""),
            crate::raw::request_bytes(&node.publisher.request(&authority, "GET", path, None)),
        ] {
            let reply = ask(node.address(listener), &request).await.unwrap();
            assert_eq!((reply.status, reply.problem()), (404, "not-found".into()), "{listener} {path}");
        }
    }
}

fn assert_guarded(reply: &Reply, what: &str) {
    for (name, part) in [
        ("content-security-policy", "default-src 'none'"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert!(reply.header(name).is_some_and(|value| value.contains(part)), "{what}: {name} in {reply:?}");
    }
    for absent in ["server", "x-powered-by", "access-control-allow-origin"] {
        assert_eq!(reply.header(absent), None, "{what}");
    }
}

#[tokio::test]
async fn answers_have_browser_headers() {
    let node = Node::start(Setup::default()).await;
    for (listener, path) in [
        ("public", PATH),
        ("public", "/"),
        ("public", "/demo/"),
        ("public", "/problems/malformed"),
        ("publish", "/v1/channels/a"),
        ("ops", "/metrics"),
        ("ops", "/readyz"),
        ("ops", "/healthz"),
    ] {
        for method in ["GET", "POST", "TRACE"] {
            let host = node.address(listener);
            let request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
            let reply = ask(host, request.as_bytes()).await.unwrap();
            assert_guarded(&reply, &format!("{method} {path}"));
        }
    }
    assert_guarded(&node.post("open.a", "application/json", b"1").await, "a publication");
    assert_guarded(&ask(node.public(), &upgrade(PATH, "gateway", "")).await.unwrap(), "an upgrade");
    assert_guarded(&ask(node.public(), b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap(), "CONNECT");
}
