//! A small HTTP/1.1 client: one connection for each request, upgrades kept.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use lastmile::transport::config::Address;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::with_timeout;

/// A TCP or Unix stream to a gateway.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The answer of a gateway.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The last part of the problem's type, of an answer that is a problem in every respect.
    #[track_caller]
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16(), "{problem}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        problem["type"].as_str().and_then(|of| of.rsplit_once("/problems/")).expect("a problem type").1.to_owned()
    }

    /// The same with its status.
    #[track_caller]
    pub fn refusal(&self) -> (u16, String) {
        (self.status.as_u16(), self.problem())
    }
}

pub async fn connect(address: &Address) -> Box<dyn Io> {
    match address {
        Address::Tcp(address) => {
            let tcp = with_timeout("a connection", TcpStream::connect(address)).await.unwrap();
            tcp.set_nodelay(true).unwrap();
            Box::new(tcp)
        }
        Address::Unix(path) => Box::new(with_timeout("a connection", UnixStream::connect(path)).await.unwrap()),
    }
}

pub async fn send(address: &Address, request: Request<Bytes>) -> Answer {
    exchange(connect(address).await, request).await.0
}

/// An unsigned `GET`.
pub async fn get(address: &Address, path: &str) -> Answer {
    let authority = address.to_string();
    let authority = if authority.starts_with("unix:") { "localhost" } else { &authority };
    send(address, Request::get(path).header("host", authority).body(Bytes::new()).unwrap()).await
}

/// One request on a fresh stream; the stream comes back if the answer is 101.
pub async fn exchange(io: Box<dyn Io>, request: Request<Bytes>) -> (Answer, Option<Upgraded>) {
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let mut response = with_timeout("an answer", sender.send_request(request.map(Full::new))).await.expect("an answer");
    let upgrade = (response.status() == StatusCode::SWITCHING_PROTOCOLS).then(|| hyper::upgrade::on(&mut response));
    let (head, body) = response.into_parts();
    if let Some(upgrade) = upgrade {
        let upgraded = with_timeout("the upgrade", upgrade).await.unwrap();
        return (Answer { status: head.status, headers: head.headers, body: Bytes::new() }, Some(upgraded));
    }
    let body = with_timeout("a body", body.collect()).await.unwrap().to_bytes();
    (Answer { status: head.status, headers: head.headers, body }, None)
}
