//! The upgrade (RFC 6455 section 4): its headers, its origin, and everything that is no upgrade.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::node::{HealthySubscriber, Node, Setup};
use crate::raw::{Reply, ask, connect, read_reply, send};
use crate::ws::{RawWs, upgrade};

const PATH: &str = "/v1/subscribe";

#[tokio::test]
async fn huge_or_slow_heads_never_hang() {
    let node = Node::start(Setup::default()).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    let host = node.public().to_string();
    let refused = async |more: String| {
        let reply = ask(node.public(), &upgrade(PATH, &host, &more)).await;
        // A reset instead of an answer is fine: not everything was read.
        assert!(reply.as_ref().is_none_or(|reply| [400, 431].contains(&reply.status)), "{reply:?}");
    };
    refused(format!("x-large: {}\r\n", "a".repeat(100 * 1024))).await;
    refused("x-many: 1\r\n".repeat(2000)).await;
    refused((0..2000).map(|n| format!("x-many-{n}: 1\r\n")).collect()).await;
    refused(format!("{}: 1\r\n", "x".repeat(100 * 1024))).await;
    let long_path = format!("/{}", "a".repeat(100 * 1024));
    let reply = ask(node.public(), &upgrade(&long_path, &host, "")).await;
    assert!(reply.as_ref().is_none_or(|reply| [400, 414, 431].contains(&reply.status)), "{reply:?}");

    let mut slow = connect(node.public()).await;
    for byte in upgrade(PATH, &host, "") {
        send(&mut slow, &[byte]).await;
    }
    assert_eq!(read_reply(&mut slow).await.unwrap().status, 101, "one byte at a time");
    healthy.check_served(&node).await;
}

/// A request with exactly these lines after the first.
async fn lines(node: &Node, lines: &[&str]) -> Reply {
    let request = format!("GET {PATH} HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
    ask(node.public(), request.as_bytes()).await.unwrap_or_else(|| panic!("no answer to {lines:?}"))
}

const GOOD: [&str; 5] = [
    "host: gateway",
    "connection: keep-alive, Upgrade",
    "upgrade: WebSocket",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
];

#[tokio::test]
async fn upgrade_must_be_complete() {
    let node = Node::start(Setup::default()).await;
    assert_eq!(lines(&node, &GOOD).await.status, 101);
    for (missing, status) in [(1, 426), (2, 426), (3, 426), (4, 400)] {
        let rest: Vec<_> = (0..5).filter(|at| *at != missing).map(|at| GOOD[at]).collect();
        assert_eq!(lines(&node, &rest).await.status, status, "without {}", GOOD[missing]);
    }
    for extra in [
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
        "sec-websocket-version: 13",
        "sec-websocket-version: 8",
        "host: other",
        "content-length: 5",
        "transfer-encoding: chunked",
    ] {
        let reply = lines(&node, &[&GOOD[..], &[extra]].concat()).await;
        assert!([400, 426].contains(&reply.status), "{extra}: {reply:?}");
    }
    for (at, instead) in [
        (1, "connection: close"),
        (1, "connection: Upgraded"),
        (2, "upgrade: h2c"),
        (2, "upgrade: websockets"),
        (3, "sec-websocket-version: 12"),
        (3, "sec-websocket-version: 13, 8"),
        (4, "sec-websocket-key: "),
        (4, "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ"),
        (4, "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==="),
        (4, "sec-websocket-key: AA=="),
    ] {
        let mut changed = GOOD;
        changed[at] = instead;
        let reply = lines(&node, &changed).await;
        assert!([400, 426].contains(&reply.status), "{instead}: {reply:?}");
    }
    for method in ["POST", "PUT", "HEAD", "OPTIONS", "TRACE"] {
        let request = format!("{method} {PATH} HTTP/1.1\r\n{}\r\n\r\n", GOOD.join("\r\n"));
        let reply = ask(node.public(), request.as_bytes()).await;
        assert!(reply.as_ref().is_none_or(|reply| reply.status == 405), "{method}: {reply:?}");
    }
    let old = format!("GET {PATH} HTTP/1.0\r\n{}\r\n\r\n", GOOD.join("\r\n"));
    assert_eq!(ask(node.public(), old.as_bytes()).await.unwrap().status, 426, "HTTP/1.0");
}

#[tokio::test]
async fn websocket_headers_give_known_answers() {
    odd_headers("", &[]).await;
}

#[tokio::test]
async fn compressing_listener_answers_alike() {
    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    odd_headers("compression = true", &[PLAIN, &format!("{PLAIN}; server_max_window_bits=15")]).await;
}

async fn odd_headers(public: &str, extensions: &[&str]) {
    let node = Node::start(Setup { public, ..Setup::default() }).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    let odd = "(permessage-deflate(; [a-z_]{0,20}(=[0-9\"]{0,9})?){0,5}|__proto__|constructor|[ -~]{0,200}|,{0,99}|\
               lastmile\\.v1|(a, ){0,400}|[\\x80-\\xff\\t ]{0,40}|[a-zA-Z0-9+/]{22}==)";
    let odd = proptest::string::bytes_regex(odd).unwrap();
    let names = ["sec-websocket-protocol", "sec-websocket-extensions", "sec-websocket-key", "sec-websocket-version"];
    let strategy = proptest::collection::vec((proptest::sample::select(names.to_vec()), odd), 1..4);
    let mut runner = TestRunner::deterministic();
    for _ in 0..400 {
        let headers = strategy.new_tree(&mut runner).unwrap().current();
        let mut request = upgrade(PATH, "gateway", "");
        request.truncate(request.len() - 2);
        for (name, value) in &headers {
            request.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        request.extend(b"\r\n");
        let reply = ask(node.public(), &request).await.unwrap_or_else(|| panic!("no answer to {headers:?}"));
        assert!([101, 400, 426, 431].contains(&reply.status), "{headers:?}: {reply:?}");
        assert!(
            reply.header("sec-websocket-extensions").is_none_or(|answer| extensions.contains(&answer)),
            "{reply:?}"
        );
        assert!([None, Some("lastmile.v1")].contains(&reply.header("sec-websocket-protocol")), "{reply:?}");
    }
    healthy.check_served(&node).await;
}

#[tokio::test]
async fn unknown_subprotocol_is_refused() {
    let node = Node::start(Setup::default()).await;
    let mut ws = RawWs::open(node.public(), PATH, "sec-websocket-protocol: graphql-ws\r\n").await.unwrap();
    assert_eq!(ws.end().await.code(), 4510);
}

#[tokio::test]
async fn only_listed_origins_connect() {
    let public = r#"origins = ["https://app.example.com", "http://localhost:3000"]"#;
    let node = Node::start(Setup { public, ..Setup::default() }).await;
    let (host, port) = (node.public().to_string(), node.public().port());
    let verdict = async |origin: &str| {
        let request = upgrade(PATH, &host, &format!("origin: {origin}\r\n"));
        let reply = ask(node.public(), &request).await.unwrap();
        let problem = if reply.status == 101 { String::new() } else { reply.problem() };
        (reply.status, problem)
    };
    for origin in ["https://app.example.com", "http://localhost:3000", &format!("http://{host}")] {
        assert_eq!(verdict(origin).await.0, 101, "{origin}");
    }
    let (next_port, without_port) = (format!("http://127.0.0.1:{}", port ^ 1), "http://127.0.0.1");
    for origin in [
        "https://evil.example",
        "https://app.example.com.evil.com",
        "https://app.example.com.",
        "https://evil.com/https://app.example.com",
        "https://APP.example.com",
        "https://app.example.com:443",
        "https://app.example.com:8443",
        "https://user@app.example.com",
        "http://app.example.com",
        "https://app.example.com/",
        "https://sub.app.example.com",
        "https://localhost:3000",
        "http://localhost:30000",
        "null",
        "",
        "file://",
        &next_port,
        without_port,
        &format!("http://user@{host}"),
        &format!("http://{host}.evil.com"),
        &format!("chrome-extension://{host}"),
        "http://127.0.0.1@evil.com",
    ] {
        assert_eq!(verdict(origin).await, (403, "origin-forbidden".into()), "{origin:?}");
    }
    // Two origins are none; a program that is no browser has none.
    let two = upgrade(PATH, &host, &format!("origin: http://{host}\r\norigin: https://evil.example\r\n"));
    assert_eq!(ask(node.public(), &two).await.unwrap().status, 403);
    assert_eq!(ask(node.public(), &upgrade(PATH, &host, "")).await.unwrap().status, 101);
    // A cookie or a good token does not make up for a bad origin.
    let token = node.issuer.token("alice");
    let more = format!("origin: https://evil.example\r\ncookie: lastmile=x\r\nauthorization: Bearer {token}\r\n");
    assert_eq!(ask(node.public(), &upgrade(PATH, &host, &more)).await.unwrap().problem(), "origin-forbidden");
}

#[tokio::test]
async fn unknown_host_is_refused_alike() {
    let public = r#"hosts = ["gateway.example.com"]"#;
    let node = Node::start(Setup { public, ..Setup::default() }).await;
    for host in ["evil.example", "gateway.example.com.evil.example", "gateway.example.com:1", "127.0.0.1"] {
        for path in [PATH, "/problems/malformed", "/nothing"] {
            let plain = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
            for request in [plain.into_bytes(), upgrade(path, host, "")] {
                let reply = ask(node.public(), &request).await.unwrap();
                assert_eq!((reply.status, reply.problem()), (421, "host-unknown".into()), "{host:?} {path}");
            }
        }
    }
    let plain = "GET /problems/malformed HTTP/1.1\r\nhost: GATEWAY.example.com\r\n\r\n";
    assert_eq!(ask(node.public(), plain.as_bytes()).await.unwrap().status, 200);
    assert_eq!(ask(node.public(), &upgrade(PATH, "gateway.example.com", "")).await.unwrap().status, 101);
}
