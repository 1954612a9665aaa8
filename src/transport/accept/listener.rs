//! Listeners: sockets, accept loops, and each connection up to its requests.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::connection_limits::{ConnectionLimiter, LimitReached, ListenerShare, Permit};
use super::head_check::HeadCheck;
use super::http2;
use super::proxy_protocol::{self, ProxyError};
use super::socket_file::SocketFile;
use super::stream_limits::StreamLimits;
use super::tls::{ALPN_HTTP2, Certificate, TlsError};
use super::write_deadline::WriteDeadline;
use crate::auth::client_addr::{ClientAddr, is_trusted};
use crate::broker::ConnectionLimits;
use crate::ops::Phase;
use crate::ops::log::folded;
use crate::transport::config::{Address, ListenerConfig, Role};
use crate::transport::http::edge;
use crate::transport::http::request::HttpPeer;
use crate::transport::state::AppState;

/// Connections that the kernel queues for the accept loop.
const LISTEN_BACKLOG: i32 = 4096;

/// hyper reads a request head into a buffer of at least this size.
const MIN_HEAD_BUFFER_BYTES: usize = 8192;

/// After an accept that failed for lack of descriptors or memory.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Clients that connect during the start wait this long for the gateway to become ready, before they are refused.
const START_GRACE: Duration = Duration::from_secs(2);

/// A bound listener that does not accept yet.
pub struct Listener {
    config: Arc<ListenerConfig>,
    pub(super) socket: Arc<Socket>,
    pub(super) tls: Option<Arc<Certificate>>,
}

/// Loads a listener's certificate, if it has one.
pub fn load_tls(config: &ListenerConfig) -> Result<Option<Arc<Certificate>>, ListenError> {
    let tls = config.tls.clone().map(|files| Certificate::load(files, config.http2)).transpose();
    tls.map_err(|error| ListenError::Tls { listener: config.name.clone(), error })
}

pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(SocketFile),
}

/// A listener that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("listeners.{listener}: cannot listen on {address}: {error}")]
    Bind { listener: String, address: String, error: io::Error },
    #[error("listeners.{listener}.tls: {error}")]
    Tls { listener: String, error: TlsError },
}

impl Listener {
    /// Loads every certificate before the first socket is bound.
    pub fn bind_all(configs: Vec<ListenerConfig>, limits: &ConnectionLimits) -> Result<Vec<Self>, ListenError> {
        // Longer than the gateway's own timeouts, so that a stalled peer gets a close reason before the kernel resets it.
        let user_timeout = (limits.ping + limits.pong).max(2 * limits.stall + limits.close);
        let tls = configs.iter().map(load_tls).collect::<Result<Vec<_>, _>>()?;
        configs.into_iter().zip(tls).map(|(config, tls)| Self::bind(config, tls, user_timeout)).collect()
    }

    fn bind(
        mut config: ListenerConfig,
        tls: Option<Arc<Certificate>>,
        user_timeout: Duration,
    ) -> Result<Self, ListenError> {
        let socket = match &config.address {
            Address::Tcp(address) => bind_tcp(*address, user_timeout).map(Socket::Tcp),
            Address::Unix(path) => SocketFile::bind(path, &config.socket_file, LISTEN_BACKLOG).map(Socket::Unix),
        };
        let socket = socket.map_err(|error| ListenError::Bind {
            listener: config.name.clone(),
            address: config.address.to_string(),
            error,
        })?;
        // The listener's own names have the port that the kernel chose for port 0.
        if let Socket::Tcp(tcp) = &socket
            && let Ok(address) = tcp.local_addr()
        {
            config.address = Address::Tcp(address);
        }
        Ok(Self { config: Arc::new(config), socket: Arc::new(socket), tls })
    }

    /// With the bound address.
    pub fn config(&self) -> &ListenerConfig {
        &self.config
    }

    pub fn certificate(&self) -> Option<Arc<Certificate>> {
        self.tls.clone()
    }

    /// Accepts until the drain begins; with the role `ops`, until its end.
    pub async fn run(self, app: Arc<AppState>, limiter: Arc<ConnectionLimiter>, routes: BoxedFilter<(Response,)>) {
        let Self { config, socket, tls } = self;
        let share = ListenerShare::of(&config);
        if !config.roles.contains(&Role::Ops) {
            let _ = timeout(START_GRACE, app.lifecycle.reached(Phase::Ready)).await;
        }
        let mut closing = pin!(app.lifecycle.reached(closes_at(&config)));
        loop {
            let accepted = tokio::select! {
                () = &mut closing => break,
                accepted = socket.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    folded!(WARN, config.name, "cannot accept connection", listener = config.name, %error);
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                    continue;
                }
            };
            let admitted = limiter.admit(&share).and_then(|permit| {
                // Counted before the task runs: connections count in the order in which they arrived.
                if !config.proxy_protocol {
                    assign_client(&permit, address, &app)?;
                }
                Ok(permit)
            });
            let Ok(permit) = admitted else {
                // At once, so that refused connections hold no descriptors.
                refuse(stream, tls.is_some());
                continue;
            };
            let acceptor = tls.as_ref().map(|certificate| certificate.acceptor());
            // An HTTP/2 connection counts its streams.
            let streams = acceptor.is_some().then(|| (limiter.clone(), share.clone()));
            let incoming = Incoming {
                app: app.clone(),
                config: config.clone(),
                certificate: tls.clone(),
                routes: routes.clone(),
                address,
                streams,
            };
            tokio::spawn(incoming.serve(stream, acceptor, permit));
        }
    }
}

pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(super) async fn accept(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (tcp, address) = listener.accept().await?;
                // On Linux the option is inherited from the listening socket.
                #[cfg(not(target_os = "linux"))]
                tcp.set_nodelay(true)?;
                Ok((Stream::Tcp(tcp), Some(address.ip())))
            }
            Self::Unix(listener) => listener.accept().await.map(|(unix, _)| (Stream::Unix(unix), None)),
        }
    }
}

/// Counts the connection for its address, unless requests of a trusted proxy name the clients.
fn assign_client(permit: &Permit, address: Option<IpAddr>, app: &AppState) -> Result<(), LimitReached> {
    match address.filter(|address| !is_trusted(*address, &app.limits.trusted_proxies)) {
        Some(address) => permit.assign(ClientAddr::from(address)),
        None => Ok(()),
    }
}

/// An accepted connection before its first request.
struct Incoming {
    app: Arc<AppState>,
    config: Arc<ListenerConfig>,
    certificate: Option<Arc<Certificate>>,
    routes: BoxedFilter<(Response,)>,
    address: Option<IpAddr>,
    /// On listeners with TLS, for the streams of HTTP/2.
    streams: Option<(Arc<ConnectionLimiter>, ListenerShare)>,
}

impl Incoming {
    async fn serve(mut self, stream: Stream, acceptor: Option<TlsAcceptor>, permit: Permit) {
        let deadline = self.app.limits.handshake;
        let mut tcp = match stream {
            Stream::Tcp(tcp) => tcp,
            Stream::Unix(unix) => return Box::pin(self.serve_http(unix, permit)).await,
        };
        if self.config.proxy_protocol {
            match self.read_proxy_header(&mut tcp).await {
                Ok(Some(client)) => self.address = Some(client),
                Ok(None) => {}
                Err(error) => {
                    let listener = &self.config.name;
                    folded!(WARN, listener, "connection refused: no valid PROXY header", listener, %error);
                    return;
                }
            }
            if assign_client(&permit, self.address, &self.app).is_err() {
                return refuse(Stream::Tcp(tcp), acceptor.is_some());
            }
        }
        // Not `readable`, which is true of a new socket until the first read attempt.
        if !matches!(timeout(deadline, tcp.peek(&mut [0])).await, Ok(Ok(1..))) {
            return;
        }
        // Boxed, here and below, so that a connection takes memory only for its current stage.
        match acceptor {
            None => Box::pin(self.serve_http(tcp, permit)).await,
            Some(acceptor) => Box::pin(self.serve_tls(tcp, acceptor, permit)).await,
        }
    }

    /// The client's address as the balancer reports it. Only listed peers are believed: any other could choose its address.
    async fn read_proxy_header(&self, tcp: &mut TcpStream) -> Result<Option<IpAddr>, ProxyError> {
        match self.address {
            Some(peer) if is_trusted(peer, &self.app.limits.trusted_proxies) => {}
            peer => return Err(ProxyError::PeerNotTrusted(peer)),
        }
        let header = timeout(self.app.limits.handshake, proxy_protocol::read_header(tcp)).await;
        let client = header.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))?;
        Ok(client.map(|client| client.ip()))
    }

    async fn serve_tls(self, tcp: TcpStream, acceptor: TlsAcceptor, permit: Permit) {
        let listener = self.config.name.clone();
        match timeout(self.app.limits.handshake, acceptor.accept(tcp)).await {
            Ok(Ok(tls)) if tls.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2) => {
                Box::pin(self.serve_http2(tls, permit)).await;
            }
            Ok(Ok(tls)) => Box::pin(self.serve_http(tls, permit)).await,
            Ok(Err(error)) => folded!(DEBUG, listener, "TLS handshake failed", listener, %error),
            Err(_) => folded!(DEBUG, listener, "TLS handshake timed out", listener),
        }
    }

    async fn serve_http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S, permit: Permit) {
        let Self { app, config, certificate, routes, address, streams: _ } = self;
        let closes_at = closes_at(&config);
        let peer = HttpPeer { listener: config, certificate, address, permit: Arc::new(permit), streams: None };
        let (checked, verdicts) = HeadCheck::new(WriteDeadline::new(stream, app.limits.handshake));
        let io = TokioIo::new(checked);
        let shared = app.clone();
        let service = service_fn(move |request| {
            edge::handle(shared.clone(), peer.clone(), routes.clone(), verdicts.next_is_valid(), request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(app.limits.handshake)
            .max_buf_size(app.limits.max_header_bytes.max(MIN_HEAD_BUFFER_BYTES))
            .serve_connection(io, service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let closing = app.lifecycle.reached(closes_at);
        // A connection error concerns its client alone.
        let _ = tokio::select! {
            done = connection.as_mut() => done,
            () = closing => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
    }

    async fn serve_http2(self, stream: TlsStream<TcpStream>, permit: Permit) {
        let Self { app, config, certificate, routes, address, streams } = self;
        let closing = app.lifecycle.reached(closes_at(&config));
        let streams = streams.map(|(limiter, share)| Arc::new(StreamLimits::new(limiter, share)));
        let peer = HttpPeer { listener: config, certificate, address, permit: Arc::new(permit), streams };
        let answer = |request| edge::handle(app.clone(), peer.clone(), routes.clone(), true, request);
        http2::serve(stream, &app.limits, &app.connection_limits, closing, answer).await;
    }
}

/// The phase in which a listener closes. Operators' listeners stay open during the drain.
fn closes_at(config: &ListenerConfig) -> Phase {
    if config.roles.contains(&Role::Ops) { Phase::Stopped } else { Phase::Draining }
}

/// Answers 503, unless that needs a TLS handshake first. A new socket takes the answer at once.
fn refuse(stream: Stream, is_tls: bool) {
    const SERVICE_UNAVAILABLE: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    if is_tls {
        return;
    }
    let _ = match stream {
        Stream::Tcp(tcp) => tcp.into_std().and_then(|mut tcp| tcp.write(SERVICE_UNAVAILABLE)),
        Stream::Unix(unix) => unix.into_std().and_then(|mut unix| unix.write(SERVICE_UNAVAILABLE)),
    };
}

/// `user_timeout` is how long sent data may stay unacknowledged.
fn bind_tcp(address: SocketAddr, user_timeout: Duration) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // On Linux accepted sockets inherit the options. Messages are small and must not be delayed.
    socket.set_tcp_nodelay(true)?;
    // Detects a vanished peer of an event stream, which cannot be pinged.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(user_timeout))?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(socket.into())
}
