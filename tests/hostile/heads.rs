//! Request heads with more than one meaning, and hosts that are none (RFC 9112 sections 2.2, 3.2 and 6).

use test_support::TEST_TIMEOUT;

use crate::node::{HealthySubscriber, Node, Setup};
use crate::raw::{ask, connect, read_to_end, request_bytes, send};
use crate::ws::upgrade;

/// Long enough that the request, and not a timeout, closes the connection.
const PATIENT: Setup<'_> =
    Setup { public: "", limits: "handshake_secs = 300", top: "", more: "", log: "info", ulimit: "" };

const GET: &str = "GET /problems/malformed HTTP/1.1\r\nhost: gateway\r\n\r\n";

/// The connection answers `before` requests with 200, then one with 400, and closes. `gateway` is the listener's host.
async fn expect_refusal(node: &Node, listener: &str, bytes: &[u8], before: usize) {
    let mut stream = connect(node.address(listener)).await;
    let host = format!("host: {}", node.address(listener));
    let bytes = std::str::from_utf8(bytes).unwrap().replace("host: gateway", &host);
    let bytes = bytes.as_bytes();
    send(&mut stream, bytes).await;
    let all = read_to_end(&mut stream, TEST_TIMEOUT).await.expect("the connection is closed");
    let (all, sent) = (String::from_utf8_lossy(&all), String::from_utf8_lossy(bytes));
    let statuses: Vec<_> = all.split("HTTP/1.1 ").skip(1).map(|response| &response[..3]).collect();
    let expected = [vec!["200"; before], vec!["400"]].concat();
    assert_eq!(statuses, expected, "{listener}: {sent:?}: {all}");
}

#[tokio::test]
async fn ambiguous_head_gets_400_and_closes() {
    let node = Node::start(PATIENT).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    let path = "/v1/channels/open.a/messages";
    let fields = [
        "content-length: 5\r\ncontent-length: 5\r\n",
        "content-length: 5\r\nx: y\r\nContent-Length: 5\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: identity, chunked\r\n",
        "transfer-encoding: chunked;q=1\r\n",
        "x: y\n",
        "x: y\ncontent-length: 5\r\n",
    ];
    let heads = fields.iter().map(|fields| format!("POST {path} HTTP/1.1\r\nhost: gateway\r\n{fields}\r\n"));
    let others = [
        format!("POST {path} HTTP/1.1\nhost: gateway\r\n\r\n"),
        format!("POST {path} HTTP/1.1\r\nhost: gateway\r\n\n"),
        "GET /problems/malformed#fragment HTTP/1.1\r\nhost: gateway\r\n\r\n".to_owned(),
        "GET /problems/malformed?a=b# HTTP/1.1\r\nhost: gateway\r\n\r\n".to_owned(),
        "GET http://gateway/problems/malformed#a HTTP/1.1\r\nhost: gateway\r\n\r\n".to_owned(),
        String::from_utf8(upgrade("/v1/subscribe#a", "gateway", "")).unwrap(),
        String::from_utf8(upgrade("/v1/subscribe", "gateway", "x: y\n")).unwrap(),
    ];
    for head in heads.chain(others) {
        for listener in ["public", "publish", "ops"] {
            let body = "0\r\n\r\n";
            expect_refusal(&node, listener, format!("{head}{body}{GET}").as_bytes(), 0).await;
            // Behind a request with a body and one without, in the same segment.
            let first = "GET /problems/malformed HTTP/1.1\r\nhost: gateway\r\ncontent-length: 4\r\n\r\n\n#\n\n";
            expect_refusal(&node, listener, format!("{first}{GET}{head}{body}{GET}").as_bytes(), 2).await;
        }
    }
    // A signature does not make up for it.
    let signed = node.signed_bytes("POST", path, Some(("application/json", b"[123]")));
    let twice = String::from_utf8(signed.clone())
        .unwrap()
        .replace("content-length: 5", "content-length: 5\r\ncontent-length: 5");
    expect_refusal(&node, "publish", twice.as_bytes(), 0).await;
    assert_eq!(ask(node.address("publish"), &signed).await.unwrap().status, 200);
    healthy.check_served(&node).await;
}

#[tokio::test]
async fn chunked_request_is_the_last() {
    let node = Node::start(PATIENT).await;
    let signed = node.signed_bytes("POST", "/v1/channels/open.a/messages", Some(("application/json", b"[123]")));
    let whole = String::from_utf8(signed).unwrap();
    let chunked = whole
        .replace("content-length: 5\r\n", "Transfer-Encoding: Chunked\r\n")
        .replace("[123]", "5\r\n[123]\r\n0\r\n\r\n");
    let mut stream = connect(node.address("publish")).await;
    send(&mut stream, format!("{chunked}{GET}").as_bytes()).await;
    let all =
        String::from_utf8(read_to_end(&mut stream, TEST_TIMEOUT).await.expect("the connection is closed")).unwrap();
    assert!(all.starts_with("HTTP/1.1 200 ") && all.contains("connection: close"), "{all}");
    assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{all}");
}

#[tokio::test]
async fn request_without_valid_host_gets_400() {
    let node = Node::start(Setup::default()).await;
    let hosts = [
        "",
        "host:\r\n",
        "host: \r\n",
        "host: user@gateway\r\n",
        "host: user:pw@gateway:80\r\n",
        "host: gateway:x\r\n",
        "host: gate way\r\n",
        "host: gateway/a\r\n",
        "host: http://gateway\r\n",
        "host: [::1\r\n",
        "host: [gateway]\r\n",
        "host: ::1\r\n",
        "host: gateway, other\r\n",
        "host: \u{e9}\r\n",
        "host: :80\r\n",
        "host: gateway\r\nhost: gateway\r\n",
    ];
    for host in hosts {
        for target in ["/problems/malformed", "http://gateway/problems/malformed"] {
            for listener in ["public", "publish", "ops"] {
                let request = format!("GET {target} HTTP/1.1\r\n{host}\r\n");
                expect_refusal(&node, listener, format!("{request}{GET}").as_bytes(), 0).await;
            }
        }
        let handshake = String::from_utf8(upgrade("/v1/subscribe", "gateway", "")).unwrap();
        let reply = ask(node.public(), handshake.replace("host: gateway\r\n", host).as_bytes()).await.unwrap();
        assert_eq!((reply.status, reply.problem()), (400, "malformed".into()), "{host:?}");
    }
    for target in ["http://user@gateway/problems/malformed", "http://user:pw@gateway/problems/malformed"] {
        expect_refusal(&node, "public", format!("GET {target} HTTP/1.1\r\nhost: gateway\r\n\r\n").as_bytes(), 0).await;
    }
    for host in [
        "gateway",
        "gateway:",
        "gateway:80",
        "[::1]",
        "[::1]:80",
        "127.0.0.1:1",
        "gate_way.example",
        "xn--bcher-kva.example",
    ] {
        let request = format!("GET /problems/malformed HTTP/1.1\r\nhost: {host}\r\n\r\n");
        assert_eq!(ask(node.public(), request.as_bytes()).await.unwrap().status, 200, "{host}");
    }
    // HTTP/1.0 knows no Host; probes of balancers send none.
    assert_eq!(ask(node.address("ops"), b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap().status, 200);
    // A signature for another host of the head does not help.
    let signed = node.publisher.request(
        "user@gateway",
        "POST",
        "/v1/channels/open.a/messages",
        Some(("application/json", b"1")),
    );
    assert_eq!(ask(node.address("publish"), &request_bytes(&signed)).await.unwrap().problem(), "malformed");
}

#[tokio::test]
async fn refused_version_names_the_right_one() {
    let more = "[listeners.pair]\naddress = \"127.0.0.1:0\"\nroles = [\"pair\"]\n\
                [listeners.older]\naddress = \"127.0.0.1:0\"\nroles = [\"tslm\"]\n\
                [listeners.flight]\naddress = \"127.0.0.1:0\"\nroles = [\"flock\"]\n";
    let node = Node::start(Setup { more, ..Setup::default() }).await;
    for (listener, path) in [
        ("public", "/v1/subscribe"),
        ("publish", "/v1/publish"),
        ("pair", "/v1/rooms"),
        ("pair", "/v1/ws/"),
        ("pair", "/v1/relay/a"),
        ("older", "/"),
        ("flight", "/ws"),
    ] {
        for version in ["7", "8", "14", "13, 8", "x"] {
            let handshake = String::from_utf8(upgrade(path, &node.address(listener).to_string(), "")).unwrap();
            let handshake =
                handshake.replace("sec-websocket-version: 13", &format!("sec-websocket-version: {version}"));
            let reply = ask(node.address(listener), handshake.as_bytes()).await.unwrap();
            assert!([400, 426].contains(&reply.status), "{path}: {reply:?}");
            assert_eq!(reply.header("sec-websocket-version"), Some("13"), "{path} {version}: {reply:?}");
        }
    }
}
