//! HTTP/2 on TLS listeners: everything that HTTP/1.1 answers, and peers that flood, stall or stay for nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use test_support::{TEST_TIMEOUT, eventually, with_timeout};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::heavy;
use crate::node::{Node, Setup};
use crate::raw::send;
use crate::tls::Certified;
use crate::ws::upgrade;

/// A listener over TLS that serves everything.
const ALL: &str = "[listeners.all]\naddress = \"127.0.0.1:0\"\nroles = [\"publish\", \"subscribe\", \"pair\", \"ops\"]\n\
                   tls = { certificate = \"gateway.crt\", key = \"gateway.key\" }\n";

type Sender = SendRequest<BoxBody<Bytes, Infallible>>;

/// A whole client on a connection of its own, with the task that ends when the connection does.
async fn client(certified: &Certified, address: SocketAddr) -> (Sender, tokio::task::JoinHandle<hyper::Result<()>>) {
    let stream = certified.connect_to(address, &[b"h2"]).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(connection))
}

/// The same request for HTTP/2: what was the host is the authority.
fn for_http2(mut request: Request<Bytes>) -> Request<BoxBody<Bytes, Infallible>> {
    let host = request.headers_mut().remove("host").unwrap();
    let uri = format!("https://{}{}", host.to_str().unwrap(), request.uri());
    *request.uri_mut() = uri.parse().unwrap();
    *request.version_mut() = Version::HTTP_2;
    request.map(|body| Full::new(body).boxed())
}

fn get(address: SocketAddr, path: &str) -> Request<BoxBody<Bytes, Infallible>> {
    for_http2(Request::get(path).header("host", address.to_string()).body(Bytes::new()).unwrap())
}

/// The answer with its body, after a look at its fields.
async fn ask(sender: &Sender, request: Request<BoxBody<Bytes, Infallible>>) -> (u16, Response<()>, Bytes) {
    let answered: Response<Incoming> = with_timeout("an answer", sender.clone().send_request(request)).await.unwrap();
    let (head, body) = answered.into_parts();
    assert_eq!(head.version, Version::HTTP_2);
    for field in ["connection", "upgrade", "transfer-encoding", "keep-alive"] {
        assert!(!head.headers.contains_key(field), "{field} has no place in HTTP/2: {head:?}");
    }
    assert_eq!(head.headers["strict-transport-security"], "max-age=31536000");
    let body = with_timeout("a body", body.collect()).await.unwrap().to_bytes();
    (head.status.as_u16(), Response::from_parts(head, ()), body)
}

async fn problem(sender: &Sender, request: Request<BoxBody<Bytes, Infallible>>) -> (u16, String) {
    let (status, head, body) = ask(sender, request).await;
    assert_eq!(head.headers()["content-type"], "application/problem+json");
    let problem: Value = serde_json::from_slice(&body).unwrap();
    (status, problem["type"].as_str().unwrap().rsplit('/').next().unwrap().to_owned())
}

#[tokio::test]
async fn http2_serves_all_on_one_connection() {
    let certified = Certified::new();
    let node = certified.node(Setup { more: ALL, ..Setup::default() }).await;
    let address = node.address("all");
    let authority = address.to_string();
    let (sender, _connection) = client(&certified, address).await;
    let mut reader = node_reader(&certified, &node).await;
    let path = "/v1/channels/open.a/messages";
    let signed = |body: &[u8]| node.publisher.request(&authority, "POST", path, Some(("application/json", body)));

    let (status, _, body) = ask(&sender, for_http2(signed(b"{\"usd\":1.50}"))).await;
    assert_eq!((status, &serde_json::from_slice::<Value>(&body).unwrap()["offset"]), (200, &1.into()));
    assert!(reader.text().await.unwrap().ends_with("\"data\":{\"usd\":1.50}}"));
    // A hundred at once; each has its own answer.
    let many = futures_util::future::join_all((0..100).map(|_| ask(&sender, for_http2(signed(b"1"))))).await;
    let mut offsets: Vec<_> =
        many.iter().map(|(_, _, body)| serde_json::from_slice::<Value>(body).unwrap()["offset"].as_u64()).collect();
    offsets.sort();
    assert_eq!(offsets, (2..102).map(Some).collect::<Vec<_>>());

    let state = node.publisher.request(&authority, "GET", "/v1/channels/open.a", None);
    assert_eq!(ask(&sender, for_http2(state.clone())).await.0, 200);
    assert_eq!(problem(&sender, for_http2(state)).await, (401, "signature-replayed".into()));
    assert_eq!(ask(&sender, get(address, "/healthz")).await.0, 200);
    assert_eq!(ask(&sender, get(address, "/readyz")).await.0, 200);
    let (_, _, metrics) = ask(&sender, get(address, "/metrics")).await;
    assert!(metrics.starts_with(b"# "));
    assert_eq!(ask(&sender, get(address, "/problems/malformed")).await.0, 200);
    assert_eq!(problem(&sender, get(address, "/nothing")).await, (404, "not-found".into()));
    let mut post = get(address, "/v1/subscribe");
    *post.method_mut() = http::Method::POST;
    assert_eq!(problem(&sender, post).await, (405, "method-not-allowed".into()));
    // One connection, however many requests.
    let gauge = String::from_utf8(metrics.to_vec()).unwrap();
    assert!(gauge.lines().any(|line| line == "lastmile_sockets 2"), "{gauge}");
}

async fn node_reader(certified: &Certified, node: &Node) -> crate::ws::RawWs<TlsStream<TcpStream>> {
    certified.subscriber(node, "open.a").await
}

#[tokio::test]
async fn http2_errors_keep_connection() {
    let certified = Certified::new();
    let limits = "handshake_secs = 5";
    let node = certified.node(Setup { more: ALL, limits, ..Setup::default() }).await;
    let address = node.address("all");
    let authority = address.to_string();
    let (sender, _connection) = client(&certified, address).await;
    // There are no upgrades: a WebSocket wants HTTP/1.1.
    assert_eq!(problem(&sender, get(address, "/v1/subscribe")).await, (426, "upgrade-required".into()));
    let two_hosts = {
        let mut request = get(address, "/healthz");
        request.headers_mut().insert("host", http::HeaderValue::from_static("other"));
        request
    };
    assert_eq!(problem(&sender, two_hosts).await, (400, "malformed".into()));
    // A body that no header announces is a body all the same.
    let path = "/v1/channels/open.a/messages";
    let chunk = |bytes: &'static [u8]| Ok::<_, Infallible>(Frame::data(Bytes::from_static(bytes)));
    let bare = for_http2(node.publisher.request(&authority, "POST", path, None));
    let smuggled = bare.map(|_| StreamBody::new(futures_util::stream::iter([chunk(b"1")])).boxed());
    assert_eq!(problem(&sender, smuggled).await.1, "digest-missing");
    // One that never ends does not hold its stream for ever, and no other.
    let slow = node.publisher.request(&authority, "POST", path, Some(("application/json", b"1234567")));
    let stops = futures_util::StreamExt::chain(
        futures_util::stream::iter([chunk(b"123")]),
        futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>(),
    );
    let slow = for_http2(slow).map(|_| BodyExt::boxed(StreamBody::new(SyncStream(stops))));
    let begun = Instant::now();
    let mut slow = std::pin::pin!(problem(&sender, slow));
    tokio::select! {
        refused = &mut slow => panic!("the other one had to wait: {refused:?}"),
        (status, ..) = ask(&sender, get(address, "/healthz")) => assert_eq!(status, 200),
    }
    assert_eq!(slow.await, (400, "malformed".into()));
    assert!(begun.elapsed() >= Duration::from_secs(5));
    let large = node.publisher.request(&authority, "POST", path, Some(("application/json", &[b'1'; 70_000])));
    assert_eq!(problem(&sender, for_http2(large)).await, (413, "message-too-large".into()));
    assert_eq!(ask(&sender, get(address, "/healthz")).await.0, 200);
}

/// Only ever polled by its owner.
struct SyncStream<S>(S);

impl<S: futures_util::Stream + Unpin> futures_util::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        std::pin::Pin::new(&mut self.0).poll_next(cx)
    }
}

#[tokio::test]
async fn http2_is_a_setting_http1_stays() {
    let certified = Certified::new();
    let more = ALL.replace("[\"publish", "[\"ops\", \"publish") + "http2 = false\n";
    let node = certified.node(Setup { more: &more, ..Setup::default() }).await;
    let both: &[&[u8]] = &[b"h2", b"http/1.1"];
    let chosen = async |address, offered| {
        let stream = certified.connect_to(address, offered).await?;
        Ok::<_, std::io::Error>(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(chosen(node.public(), both).await.unwrap().unwrap(), b"h2");
    assert_eq!(chosen(node.public(), &[b"http/1.1"]).await.unwrap().unwrap(), b"http/1.1");
    assert_eq!(chosen(node.public(), &[]).await.unwrap(), None);
    assert_eq!(chosen(node.address("all"), both).await.unwrap().unwrap(), b"http/1.1");
    assert!(chosen(node.address("all"), &[b"h2"]).await.is_err());
    // Browsers offer HTTP/1.1 alone for a WebSocket.
    let stream = certified.connect_to(node.public(), &[b"http/1.1"]).await.unwrap();
    let mut ws = crate::ws::RawWs::over(stream, &upgrade("/v1/subscribe", "localhost", "")).await.unwrap();
    ws.hello().await;
}

pub const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// HTTP/2 without a library: any frame can be sent.
pub struct RawH2(pub TlsStream<TcpStream>);

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The fields of a `GET`, without compression (RFC 7541 section 6.2.2).
fn fields(path: &str) -> Vec<u8> {
    let literal = |index: u8, value: &str| [&[index, value.len() as u8], value.as_bytes()].concat();
    [vec![0x82, 0x87], literal(4, path), literal(1, "localhost")].concat()
}

impl RawH2 {
    /// `settings` are identifiers with their values.
    pub async fn open(certified: &Certified, address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut stream = certified.connect_to(address, &[b"h2"]).await.expect("a handshake");
        let settings: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &settings)].concat();
        send(&mut stream, &preface).await;
        Self(stream)
    }

    /// The next frame: its kind, its stream and its payload.
    pub async fn frame(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        with_timeout("a frame", async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, _flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((kind, u32::from_be_bytes(stream), payload))
        })
        .await
    }

    /// Reads until the connection ends; gives the error codes of the GOAWAYs.
    async fn end(&mut self) -> Vec<u32> {
        let mut codes = Vec::new();
        while let Some((kind, _, payload)) = self.frame().await {
            if kind == GOAWAY {
                codes.push(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        codes
    }
}

/// Sends `flood` in pieces and reads the answers. The connection must end, others must not be affected, and memory must
/// stay low.
async fn floods(what: &str, flood: Vec<u8>) {
    let _turn = heavy().await;
    let certified = Certified::new();
    // Only the flood may be what ends the connection, and not that nothing follows it.
    let limits = "handshake_secs = 300\nping_secs = 300";
    let node = certified.node(Setup { more: ALL, limits, ..Setup::default() }).await;
    let (healthy, _connection) = client(&certified, node.address("all")).await;
    let healthz = || get(node.address("all"), "/healthz");
    assert_eq!(ask(&healthy, healthz()).await.0, 200);
    let before = node.rss();
    node.reset_peak();
    let RawH2(stream) = RawH2::open(&certified, node.address("all"), &[]).await;
    let (mut reading, mut writing) = tokio::io::split(stream);
    let sending = async {
        for piece in flood.chunks(16 * 1024) {
            send(&mut writing, piece).await;
        }
    };
    let ended = async {
        let mut all = Vec::new();
        // A reset is an end too.
        let _ = with_timeout(what, reading.read_to_end(&mut all)).await;
    };
    tokio::join!(sending, ended);
    let growth = node.peak().saturating_sub(before);
    assert!(growth < 16 * 1024, "{what}: {growth} KiB");
    assert_eq!(ask(&healthy, healthz()).await.0, 200, "{what}");
    let log = node.log();
    assert!(log.len() < 100, "{what}: {} lines in the log", log.len());
}

/// Streams one after the other, as a client numbers them.
pub fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}

#[tokio::test]
async fn client_reset_flood_ends_connection() {
    let get = fields("/healthz");
    let flood = streams(10_000)
        .flat_map(|id| {
            let request = frame(HEADERS, END_STREAM | END_HEADERS, id, &get);
            [request, frame(RST_STREAM, 0, id, &8u32.to_be_bytes())].concat()
        })
        .collect();
    floods("resets", flood).await;
}

#[tokio::test]
async fn server_reset_flood_ends_connection() {
    let get = fields("/metrics");
    let flood = streams(10_000)
        .flat_map(|id| {
            let request = frame(HEADERS, END_STREAM | END_HEADERS, id, &get);
            // A window that grows by nothing is an error of the stream (RFC 9113 section 6.9).
            [request, frame(WINDOW_UPDATE, 0, id, &0u32.to_be_bytes())].concat()
        })
        .collect();
    floods("resets of the gateway", flood).await;
}

#[tokio::test]
async fn endless_headers_end_connection() {
    let field = [&[0x00, 3][..], b"x-a", &[100], &[b'a'; 100]].concat();
    let mut flood = frame(HEADERS, END_STREAM, 1, &fields("/healthz"));
    (0..100_000).for_each(|_| flood.extend(frame(CONTINUATION, 0, 1, &field)));
    floods("continuations", flood).await;
    let mut flood = frame(HEADERS, END_STREAM, 1, &fields("/healthz"));
    (0..500_000).for_each(|_| flood.extend(frame(CONTINUATION, 0, 1, b"")));
    floods("empty continuations", flood).await;
}

#[tokio::test]
async fn oversized_head_is_refused() {
    let certified = Certified::new();
    let node = certified.node(Setup { more: ALL, ..Setup::default() }).await;
    let (sender, _connection) = client(&certified, node.address("all")).await;
    let mut request = get(node.address("all"), "/healthz");
    request.headers_mut().insert("x-large", http::HeaderValue::from_str(&"a".repeat(60_000)).unwrap());
    // The client may know the limit and not even send it.
    let answer = with_timeout("an answer", sender.clone().send_request(request)).await;
    assert!(answer.as_ref().map_or(true, |answer| answer.status() == 431), "{answer:?}");
    let (sender, _connection) = client(&certified, node.address("all")).await;
    assert_eq!(ask(&sender, get(node.address("all"), "/healthz")).await.0, 200);
}

#[tokio::test]
async fn unread_answers_end_connection() {
    let _turn = heavy().await;
    let certified = Certified::new();
    let limits = "handshake_secs = 3";
    let node = certified.node(Setup { more: ALL, limits, ..Setup::default() }).await;
    let (start, mut before) = (node.rss(), 0);
    // No window at all, and one of a single byte. Memory of the first two may stay for the next ones.
    for (round, window) in [0, 1, 0, 1, 0, 1].into_iter().enumerate() {
        if round == 2 {
            before = node.await_rss(start + 24 * 1024, "the first unread answers").await;
        }
        let mut peer = RawH2::open(&certified, node.address("all"), &[(4, window)]).await;
        let get = fields("/metrics");
        let requests: Vec<u8> =
            streams(128).flat_map(|id| frame(HEADERS, END_STREAM | END_HEADERS, id, &get)).collect();
        send(&mut peer.0, &requests).await;
        let (healthy, _connection) = client(&certified, node.address("all")).await;
        assert_eq!(ask(&healthy, get_healthz(&node)).await.0, 200);
        // It answers every ping, so it appears alive.
        let begun = Instant::now();
        let mut resets = 0;
        while let Some((kind, _, payload)) = peer.frame().await {
            match kind {
                RST_STREAM => resets += 1,
                PING => send(&mut peer.0, &frame(PING, 1, 0, &payload)).await,
                _ => {}
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
        assert!(window > 0 || resets == 128, "{resets} streams were reset");
    }
    node.await_metric("lastmile_sockets", 1.0).await;
    node.await_rss(before + 8 * 1024, "unread answers").await;
}

fn get_healthz(node: &Node) -> Request<BoxBody<Bytes, Infallible>> {
    get(node.address("all"), "/healthz")
}

#[tokio::test]
async fn idle_connection_ends() {
    let certified = Certified::new();
    let limits = "handshake_secs = 4";
    let node = certified.node(Setup { more: ALL, limits, ..Setup::default() }).await;
    let address = node.address("all");
    let mut unused = RawH2::open(&certified, address, &[]).await;
    let mut half = RawH2::open(&certified, address, &[]).await;
    send(&mut half.0, &frame(HEADERS, END_STREAM, 1, &fields("/healthz"))).await;
    let mut speechless = certified.connect_to(address, &[b"h2"]).await.unwrap();
    let begun = Instant::now();
    assert!(unused.end().await.contains(&0), "it receives a GOAWAY");
    half.end().await;
    assert!(crate::raw::read_to_end(&mut speechless, TEST_TIMEOUT).await.is_some());
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    // One that is used now and then stays.
    let (sender, connection) = client(&certified, address).await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(ask(&sender, get(address, "/healthz")).await.0, 200);
    }
    assert!(!connection.is_finished());
}

#[tokio::test]
async fn drain_sends_goaway() {
    let certified = Certified::new();
    let more = "[drain]\nwindow_secs = 2\ndeadline_secs = 10";
    let mut node = certified.node(Setup { more, ..Setup::default() }).await;
    // A subscriber for whose connection the drain waits.
    let mut held = certified.subscriber(&node, "open.a").await;
    let mut peer = RawH2::open(&certified, node.public(), &[]).await;
    send(&mut peer.0, &frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields("/problems/malformed"))).await;
    eventually("an answer", async || (peer.frame().await?.0 == HEADERS).then_some(())).await;
    node.signal("TERM");
    let mut codes = Vec::new();
    while let Some((kind, _, payload)) = peer.frame().await {
        match kind {
            GOAWAY => codes.push(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
            PING => send(&mut peer.0, &frame(PING, 1, 0, &payload)).await,
            _ => {}
        }
    }
    assert!(!codes.is_empty() && codes.iter().all(|code| *code == 0), "{codes:?}");
    assert_eq!(held.end().await.code(), 4000);
    assert!(node.exit(TEST_TIMEOUT).await.success());
}

#[tokio::test]
async fn flood_spares_http1_clients() {
    let certified = Certified::new();
    let node = certified.node(Setup { more: ALL, ..Setup::default() }).await;
    let mut subscriber = certified.subscriber(&node, "open.a").await;
    let mut flooding = RawH2::open(&certified, node.public(), &[]).await;
    let pings: Vec<u8> = frame(PING, 0, 0, b"12345678").repeat(20_000);
    let _ = tokio::time::timeout(Duration::from_secs(2), send(&mut flooding.0, &pings)).await;
    node.publish("open.a", "1").await;
    assert_eq!(subscriber.json().await["offset"], 1);
    subscriber.is_alive().await;
}

#[tokio::test]
async fn foreign_authority_is_refused() {
    let certified = Certified::new();
    let node = certified.node(Setup { more: ALL, ..Setup::default() }).await;
    let address = node.address("all");
    let (sender, _connection) = client(&certified, address).await;
    let body = Some(("application/json", &b"1"[..]));
    let signed =
        |authority: &str| for_http2(node.publisher.request(authority, "POST", "/v1/channels/c/messages", body));
    for foreign in ["gw-a.internal:8081", "127.0.0.1", "localhost"] {
        assert_eq!(problem(&sender, signed(foreign)).await, (421, "host-unknown".into()), "{foreign}");
    }
    let local = format!("localhost:{}", address.port());
    for own in [address.to_string(), local] {
        assert_eq!(ask(&sender, signed(&own)).await.0, 200, "{own}");
    }
}
