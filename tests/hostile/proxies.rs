//! The client address behind proxies, seen through the limit of connections per address.

use test_support::TEST_TIMEOUT;
use tokio::net::TcpStream;

use crate::node::{HealthySubscriber, Node, Setup};
use crate::raw::{ask, connect, connect_from, read_reply, read_to_end, send};
use crate::ws::upgrade;

const PROXY_LISTENER: &str = "[listeners.balanced]\naddress = \"127.0.0.1:0\"\nroles = [\"subscribe\"]\n\
                              proxy_protocol = true\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Upgrades on `stream` with more header lines; gives the status, and the stream to hold on to.
async fn upgraded(mut stream: TcpStream, headers: &str) -> (u16, TcpStream) {
    send(&mut stream, &upgrade("/v1/subscribe", "gateway", headers)).await;
    let reply = read_reply(&mut stream).await.expect("an answer");
    (reply.status, stream)
}

#[tokio::test]
async fn trusted_proxy_names_clients() {
    let limits = "max_connections_per_address = 1";
    let top = "trusted_proxies = [\"127.0.0.1/32\"]";
    let node = Node::start(Setup { top, limits, ..Setup::default() }).await;
    let behind = async |headers: &str| upgraded(connect(node.public()).await, headers).await;
    let (status, _first) = behind("x-forwarded-for: 203.0.113.1\r\n").await;
    assert_eq!(status, 101);
    // The same client in every spelling, and whatever it claims on the left.
    for same in [
        "x-forwarded-for: 203.0.113.1\r\n",
        "x-forwarded-for: 198.51.100.7, 203.0.113.1\r\n",
        "x-forwarded-for: 198.51.100.7\r\nx-forwarded-for: 203.0.113.1\r\n",
        "x-forwarded-for: ::ffff:203.0.113.1\r\n",
        "x-forwarded-for: ::203.0.113.1\r\n",
        "x-forwarded-for: 203.0.113.1:4711\r\n",
        "x-forwarded-for: 203.0.113.1, 127.0.0.1\r\n",
        "forwarded: for=203.0.113.1\r\n",
        "forwarded: for=198.51.100.7, for=\"203.0.113.1:80\";proto=https\r\n",
        "forwarded: for=203.0.113.1\r\nx-forwarded-for: 203.0.113.1\r\n",
        "connection: upgrade, x-forwarded-for\r\nx-forwarded-for: 203.0.113.1\r\n",
        "x-forwarded-for: 203.0.113.1\r\nx-real-ip: 198.51.100.9\r\ntrue-client-ip: 198.51.100.9\r\n",
    ] {
        assert_eq!(behind(same).await.0, 429, "{same}");
    }
    // The same verdict for a request that is no upgrade.
    let plain = "GET /problems/malformed HTTP/1.1\r\nhost: gateway\r\nx-forwarded-for: 203.0.113.1\r\n\r\n";
    assert_eq!(ask(node.public(), plain.as_bytes()).await.unwrap().problem(), "connection-limit");
    let (status, _other) = behind("x-forwarded-for: 203.0.113.2\r\n").await;
    assert_eq!(status, 101, "another client");
    // An IPv6 network is one client.
    let (status, _v6) = behind("x-forwarded-for: 2001:db8:1:2::1\r\n").await;
    assert_eq!(status, 101);
    assert_eq!(behind("x-forwarded-for: 2001:db8:1:2:ffff::9\r\n").await.0, 429);
    assert_eq!(behind("x-forwarded-for: 2001:db8:1:3::1\r\n").await.0, 101);
}

#[tokio::test]
async fn stranger_cannot_choose_address() {
    let limits = "max_connections_per_address = 1";
    let top = "trusted_proxies = [\"127.0.0.1/32\"]";
    let node = Node::start(Setup { top, limits, ..Setup::default() }).await;
    let (status, _first) = upgraded(connect_from("127.0.0.9", node.public()).await, "").await;
    assert_eq!(status, 101);
    for lie in ["x-forwarded-for: 203.0.113.1\r\n", "forwarded: for=203.0.113.2\r\n", "x-real-ip: 203.0.113.3\r\n"] {
        assert_eq!(upgraded(connect_from("127.0.0.9", node.public()).await, lie).await.0, 503, "{lie}");
    }
}

#[tokio::test]
async fn invalid_header_names_no_client() {
    let limits = "max_connections_per_address = 1";
    let top = "trusted_proxies = [\"127.0.0.1/32\"]";
    let node = Node::start(Setup { top, limits, ..Setup::default() }).await;
    let many = format!("x-forwarded-for: {}203.0.113.1\r\n", "10.0.0.1, ".repeat(1000));
    for odd in [
        "x-forwarded-for: unknown\r\n",
        "x-forwarded-for: \r\n",
        "x-forwarded-for: fe80::1%eth0\r\n",
        "x-forwarded-for: 203.0.113.1, nonsense\r\n",
        "forwarded: for=203.0.113.1;for=203.0.113.2\r\n",
        "forwarded: for=203.0.113.1\r\nx-forwarded-for: 203.0.113.2\r\n",
        "forwarded: \r\n",
        "x-forwarded-for: \u{e9}\r\n",
        &many,
    ] {
        let (status, _stream) = upgraded(connect(node.public()).await, odd).await;
        assert!([101, 431].contains(&status), "{odd}: {status}");
    }
    // None of them used up the place of an address.
    let (status, _stream) = upgraded(connect(node.public()).await, "x-forwarded-for: 203.0.113.2\r\n").await;
    assert_eq!(status, 101);
}

/// A PROXY v2 header.
fn header(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let length = (addresses.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &length, addresses].concat()
}

fn from_v4(last: u8) -> Vec<u8> {
    header(0x21, 0x11, &[203, 0, 113, last, 10, 0, 0, 1, 0x12, 0x34, 0, 80])
}

#[tokio::test]
async fn proxy_header_names_client() {
    let limits = "max_connections_per_address = 1";
    let top = "trusted_proxies = [\"127.0.0.1/32\"]";
    let node = Node::start(Setup { top, limits, more: PROXY_LISTENER, ..Setup::default() }).await;
    let behind = async |header: &[u8], headers: &str| {
        let mut stream = connect(node.address("balanced")).await;
        send(&mut stream, &[header, &upgrade("/v1/subscribe", "gateway", headers)].concat()).await;
        (read_reply(&mut stream).await.map(|reply| reply.status), stream)
    };
    let (status, _first) = behind(&from_v4(1), "").await;
    assert_eq!(status, Some(101));
    assert_eq!(behind(&from_v4(1), "").await.0, Some(503));
    assert_eq!(behind(&from_v4(1), "x-forwarded-for: 203.0.113.77\r\n").await.0, Some(503), "no second word");
    let mapped = [&[0; 10][..], &[0xff, 0xff, 203, 0, 113, 1], &[0; 16], &[0, 1, 0, 80]].concat();
    assert_eq!(behind(&header(0x21, 0x21, &mapped), "").await.0, Some(503), "IPv4 inside IPv6");
    let (status, _other) = behind(&from_v4(2), "").await;
    assert_eq!(status, Some(101), "another client");
    // The balancer's own connections count for no client.
    let (one, _stream) = behind(&header(0x20, 0, &[]), "").await;
    let (two, _stream) = behind(&header(0x20, 0, &[]), "").await;
    assert_eq!((one, two), (Some(101), Some(101)));
}

#[tokio::test]
async fn line_of_version_1_names_client() {
    let limits = "max_connections_per_address = 1";
    let top = "trusted_proxies = [\"127.0.0.1/32\"]";
    let node = Node::start(Setup { top, limits, more: PROXY_LISTENER, ..Setup::default() }).await;
    let behind = async |line: &str| {
        let mut stream = connect(node.address("balanced")).await;
        send(&mut stream, &[line.as_bytes(), &upgrade("/v1/subscribe", "gateway", "")].concat()).await;
        (read_reply(&mut stream).await.map(|reply| reply.status), stream)
    };
    let (first, _stream) = behind("PROXY TCP4 203.0.113.1 10.0.0.1 4660 80\r\n").await;
    let (same, _) = behind("PROXY TCP4 203.0.113.1 10.0.0.1 4661 80\r\n").await;
    let (other, _stream_2) = behind("PROXY TCP6 2001:db8::1 2001:db8::2 4660 80\r\n").await;
    assert_eq!((first, same, other), (Some(101), Some(503), Some(101)));
    // The balancer's own connections count for no client.
    let (one, _stream_3) = behind("PROXY UNKNOWN\r\n").await;
    let (two, _stream_4) = behind("PROXY UNKNOWN\r\n").await;
    assert_eq!((one, two), (Some(101), Some(101)));
}

#[tokio::test]
async fn invented_proxy_headers_are_ignored() {
    let top = "trusted_proxies = [\"127.0.0.1/32\"]";
    let limits = "max_connections_per_address = 2";
    let node = Node::start(Setup { top, limits, more: PROXY_LISTENER, ..Setup::default() }).await;
    let request = upgrade("/v1/subscribe", "gateway", "x-forwarded-for: 203.0.113.200\r\n");
    for last in 0..30 {
        let line = format!("PROXY TCP4 203.0.113.{last} 10.0.0.1 1 2\r\n").into_bytes();
        for header in [from_v4(last), line, Vec::new()] {
            let mut stream = connect_from("127.0.0.9", node.address("balanced")).await;
            send(&mut stream, &[header, request.clone()].concat()).await;
            let all = read_to_end(&mut stream, TEST_TIMEOUT).await;
            assert!(all.is_some_and(|all| all.is_empty()), "{last}");
        }
    }
    // The reason is at WARN, and ninety refusals are few lines.
    let is_report = |line: &&String| line.contains("no valid PROXY header");
    let reports: Vec<_> = node.log().into_iter().filter(|line| is_report(&line)).collect();
    assert!((1..30).contains(&reports.len()), "{reports:?}");
    assert!(reports[0].contains("WARN") && reports[0].contains("127.0.0.9 is not in trusted_proxies"), "{reports:?}");
    let mut stream = connect(node.address("balanced")).await;
    send(&mut stream, &[from_v4(1), request].concat()).await;
    assert_eq!(read_reply(&mut stream).await.map(|reply| reply.status), Some(101), "the balancer");
}

#[tokio::test]
async fn missing_proxy_header_closes() {
    let top = "trusted_proxies = [\"127.0.0.1/32\"]";
    let limits = "handshake_secs = 3";
    let node = Node::start(Setup { top, more: PROXY_LISTENER, limits, ..Setup::default() }).await;
    let mut healthy = HealthySubscriber::of(&node).await;
    let request = upgrade("/v1/subscribe", "gateway", "");
    let good = from_v4(1);
    let mut wrong_signature = good.clone();
    wrong_signature[11] = b'X';
    let cases: [(&str, Vec<u8>); 12] = [
        ("nothing", Vec::new()),
        ("no header", request.clone()),
        ("a line that is cut", [b"PROXY TCP4 203.0.113.1 10.0.0.1\r\n", &request[..]].concat()),
        ("half a signature", good[..7].to_vec()),
        ("a header without its end", good[..20].to_vec()),
        ("a wrong signature", [wrong_signature, request.clone()].concat()),
        ("version 3", [header(0x31, 0x11, &good[16..]), request.clone()].concat()),
        ("an unknown command", [header(0x2f, 0x11, &good[16..]), request.clone()].concat()),
        ("an unknown family", [header(0x21, 0xff, &good[16..]), request.clone()].concat()),
        ("addresses that are too short", [header(0x21, 0x21, &good[16..]), request.clone()].concat()),
        ("far too long", [header(0x21, 0x11, &[0; 60_000]), request.clone()].concat()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(10)),
    ];
    for (what, bytes) in cases {
        let mut stream = connect(node.address("balanced")).await;
        send(&mut stream, &bytes).await;
        let all = read_to_end(&mut stream, TEST_TIMEOUT).await;
        assert_eq!(all.as_deref(), Some(&b""[..]), "{what}");
    }
    // A header where none belongs is no HTTP.
    let mut stream = connect(node.public()).await;
    send(&mut stream, &[&good[..], &request].concat()).await;
    let all = read_to_end(&mut stream, TEST_TIMEOUT).await.expect("closed");
    assert!(all.is_empty() || all.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&all));
    healthy.check_served(&node).await;
    node.await_metric("lastmile_sockets", 2.0).await;
}
