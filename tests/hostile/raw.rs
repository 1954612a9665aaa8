//! HTTP without a library: bytes out, and what comes back taken apart as little as possible.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use serde_json::Value;
use test_support::with_timeout;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// The status line and the headers as they came.
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The last part of the problem's type.
    #[track_caller]
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        self.json()["type"].as_str().and_then(|kind| kind.rsplit_once("/problems/")).expect("a type").1.to_owned()
    }
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    let stream = with_timeout("a connection", TcpStream::connect(address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A connection from another address of this machine.
pub async fn connect_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
    with_timeout("a connection", socket.connect(address)).await.unwrap()
}

/// Sends `bytes` on a connection of their own; `None` if no whole reply comes back.
pub async fn ask(address: SocketAddr, bytes: &[u8]) -> Option<Reply> {
    let mut stream = connect(address).await;
    send(&mut stream, bytes).await;
    read_reply(&mut stream).await
}

/// Sends as much as the peer takes: it may have had enough before the end.
pub async fn send(stream: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8]) {
    let _ = with_timeout("room to send", stream.write_all(bytes)).await;
}

/// One response with a `Content-Length`; `None` if the stream ends before.
pub async fn read_reply(stream: &mut (impl AsyncRead + Unpin)) -> Option<Reply> {
    with_timeout("a reply", async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).expect("a head in ASCII");
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut reply = Reply { status, head, body: Vec::new() };
        let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        reply.body = vec![0; if status == 101 { 0 } else { length }];
        stream.read_exact(&mut reply.body).await.ok()?;
        Some(reply)
    })
    .await
}

/// Everything that comes until the peer closes, or `None` if it does not within `patience`.
pub async fn read_to_end(stream: &mut (impl AsyncRead + Unpin), patience: Duration) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    // A reset is an end too.
    let ended = tokio::time::timeout(patience, stream.read_to_end(&mut all)).await;
    ended.is_ok().then_some(all)
}

/// A request as it goes over the wire.
pub fn request_bytes(request: &Request<Bytes>) -> Vec<u8> {
    let body = request.body();
    let mut bytes = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri()).into_bytes();
    for (name, value) in request.headers() {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    if !body.is_empty() {
        bytes.extend(format!("content-length: {}\r\n", body.len()).into_bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}
