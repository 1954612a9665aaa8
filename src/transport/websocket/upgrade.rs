//! WebSocket upgrade (RFC 6455 section 4.2): checks the request and takes the socket out of hyper.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use tungstenite::handshake::derive_accept_key;
use warp::Reply;

use super::{Driver, Handler, RawSocket};
use crate::broker::{Connection, ConnectionLimits};
use crate::protocol::websocket::{Assembler, Malformed, accept_deflate};
use crate::protocol::{ErrorCode, Form, Refusal};
use crate::transport::accept::head_check::HeadCheck;
use crate::transport::accept::write_deadline::WriteDeadline;
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;

/// A checked upgrade request.
pub struct Handshake {
    accept: String,
    /// The client's subprotocols in its order; empty if it offers none.
    offered: Vec<String>,
    /// The accepted compression.
    extension: Option<&'static str>,
    upgrade: OnUpgrade,
}

impl Handshake {
    pub fn read(call: &RequestContext) -> Result<Self, Refusal> {
        let malformed = |detail: &'static str| Refusal::new(ErrorCode::Malformed, detail);
        let has_token = |name, expected: &str| {
            let values = call.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
            values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(expected))
        };
        let (true, true, Some(upgrade)) =
            (has_token(header::UPGRADE, "websocket"), has_token(header::CONNECTION, "upgrade"), call.upgrade())
        else {
            return Err(ErrorCode::UpgradeRequired.into());
        };
        if call.header(header::SEC_WEBSOCKET_VERSION) != Some("13") {
            return Err(Refusal::new(ErrorCode::UpgradeRequired, "Sec-WebSocket-Version must be 13"));
        }
        if call.has_body() {
            return Err(malformed("an upgrade request must not have a body"));
        }
        let key = call.header(header::SEC_WEBSOCKET_KEY).ok_or(malformed("Sec-WebSocket-Key must be given once"))?;
        if !BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16) {
            return Err(malformed("Sec-WebSocket-Key is not 16 bytes in base64"));
        }
        let protocols = call.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
        let offered = protocols
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|protocol| protocol.trim().to_owned())
            .collect();
        Ok(Self { accept: derive_accept_key(key.as_bytes()), offered, extension: None, upgrade })
    }

    /// Accepts the client's offer of compression if the listener compresses. Returns the form of outgoing
    /// publications.
    pub fn negotiate_compression(&mut self, call: &RequestContext) -> Result<Form, Refusal> {
        if call.peer().listener.compression {
            let lines = call.headers().get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter().map(HeaderValue::as_bytes);
            // RFC 6455 section 9.1: a malformed header fails the handshake.
            self.extension = accept_deflate(lines)
                .map_err(|Malformed| Refusal::new(ErrorCode::Malformed, "Sec-WebSocket-Extensions is malformed"))?;
        }
        Ok(if self.extension.is_some() { Form::Deflated } else { Form::Native })
    }

    pub fn offered(&self) -> &[String] {
        &self.offered
    }

    /// Whether the client accepts `protocol`: it offers this one, or none at all.
    pub fn accepts_protocol(&self, protocol: &str) -> bool {
        self.offered.is_empty() || self.offered.iter().any(|offered| offered == protocol)
    }

    /// Answers 101, and runs the handler that `start` creates once hyper has released the socket.
    pub fn accept<H: Handler>(
        self,
        app: &Arc<AppState>,
        call: &RequestContext,
        protocol: Option<&str>,
        start: impl FnOnce(&Arc<Connection<RawSocket>>) -> H + Send + 'static,
    ) -> warp::reply::Response {
        self.accept_with(app, call, &app.connection_limits, protocol, start)
    }

    /// Like [`Self::accept`], with other limits.
    pub fn accept_with<H: Handler>(
        self,
        app: &Arc<AppState>,
        call: &RequestContext,
        limits: &Arc<ConnectionLimits>,
        protocol: Option<&str>,
        start: impl FnOnce(&Arc<Connection<RawSocket>>) -> H + Send + 'static,
    ) -> warp::reply::Response {
        let Self { accept, offered, extension, upgrade } = self;
        let (app, limits, permit) = (app.clone(), limits.clone(), call.peer().permit.clone());
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let Ok((socket, early)) = take_socket(upgraded) else { return };
            let connection = Connection::new(app.registry.new_id(), limits, socket);
            let connection = Arc::new(connection);
            let registered = app.registry.register(connection.clone());
            let handler = start(&connection);
            // A task of its own, which holds no memory of the handshake.
            tokio::spawn(ConnectionTask {
                driver: Driver::new(connection, Assembler::new(extension.is_some()), handler, early),
                _registered: registered,
                _permit: permit,
            });
        });
        let mut response = Response::new(String::new()).into_response();
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Ok(accept) = HeaderValue::try_from(accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(extension) = extension {
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(extension));
        }
        let chosen = protocol.filter(|protocol| offered.iter().any(|offered| offered == protocol));
        if let Some(Ok(chosen)) = chosen.map(HeaderValue::try_from) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, chosen);
        }
        response
    }
}

/// A connection's task, with the registration and the permit that its end releases.
struct ConnectionTask<H: Handler> {
    driver: Driver<H>,
    _registered: crate::broker::connection::registry::Registered,
    _permit: Arc<crate::transport::accept::connection_limits::Permit>,
}

impl<H: Handler> Future for ConnectionTask<H> {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        std::pin::Pin::new(&mut self.driver).poll(cx)
    }
}

/// The socket of an upgraded connection, with the bytes that were read behind the request.
fn take_socket(upgraded: Upgraded) -> io::Result<(RawSocket, Bytes)> {
    let upgraded = match upgraded.downcast::<HttpStream<TcpStream>>() {
        Ok(parts) => return Ok((RawSocket::Tcp(parts.io.into_inner().into_inner().into_inner()), parts.read_buf)),
        Err(upgraded) => upgraded,
    };
    let upgraded = match upgraded.downcast::<HttpStream<TlsStream<TcpStream>>>() {
        Ok(parts) => {
            let (tcp, session) = parts.io.into_inner().into_inner().into_inner().into_inner();
            return Ok((RawSocket::tls(tcp, session), parts.read_buf));
        }
        Err(upgraded) => upgraded,
    };
    match upgraded.downcast::<HttpStream<UnixStream>>() {
        Ok(parts) => Ok((RawSocket::Unix(parts.io.into_inner().into_inner().into_inner()), parts.read_buf)),
        Err(_) => Err(io::Error::other("an upgraded connection of an unknown kind")),
    }
}

/// The stream type that the listeners pass to hyper.
type HttpStream<S> = TokioIo<HeadCheck<WriteDeadline<S>>>;
