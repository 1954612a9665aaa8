//! Listeners: their sockets, their accept loops, and each connection up to its requests.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::connection_limits::{ConnectionLimiter, Permit};
use super::http2;
use super::proxy_protocol;
use super::tls::{Certificate, HTTP2, TlsError};
use super::write_deadline::WriteDeadline;
use crate::auth::client_addr::ClientAddr;
use crate::broker::ConnectionLimits;
use crate::ops::Phase;
use crate::transport::config::{Address, ListenerConfig, Role};
use crate::transport::http::edge;
use crate::transport::http::request::Peer;
use crate::transport::state::AppState;

/// Connections that the kernel holds for the accept loop.
const BACKLOG: i32 = 4096;

/// hyper reads a request head into a buffer of at least this size.
const MIN_HEAD_BUFFER: usize = 8192;

/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound listener that does not accept yet.
pub struct Listener {
    config: Arc<ListenerConfig>,
    socket: Socket,
    tls: Option<Arc<Certificate>>,
}

/// Loads a listener's certificate, if it has one.
pub fn load_tls(config: &ListenerConfig) -> Result<Option<Arc<Certificate>>, ListenError> {
    let tls = config.tls.clone().map(|files| Certificate::load(files, config.http2)).transpose();
    tls.map_err(|error| ListenError::Tls { listener: config.name.clone(), error })
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A listener that cannot start.
#[derive(Debug)]
pub enum ListenError {
    Bind { listener: String, address: String, error: io::Error },
    Tls { listener: String, error: TlsError },
}

impl Listener {
    /// Loads every certificate before the first socket is bound.
    pub fn bind_all(configs: Vec<ListenerConfig>, limits: &ConnectionLimits) -> Result<Vec<Self>, ListenError> {
        // Whoever takes nothing for long is ended for that, with a reason, before the kernel does it.
        let silence = (limits.ping + limits.pong).max(2 * limits.stall + limits.close);
        let tls = configs.iter().map(load_tls).collect::<Result<Vec<_>, _>>()?;
        configs.into_iter().zip(tls).map(|(config, tls)| Self::bind(config, tls, silence)).collect()
    }

    fn bind(config: ListenerConfig, tls: Option<Arc<Certificate>>, silence: Duration) -> Result<Self, ListenError> {
        let socket = match &config.address {
            Address::Tcp(address) => bind_tcp(*address, silence).map(Socket::Tcp),
            Address::Unix(path) => bind_unix(path).map(Socket::Unix),
        };
        let socket = socket.map_err(|error| ListenError::Bind {
            listener: config.name.clone(),
            address: config.address.to_string(),
            error,
        })?;
        Ok(Self { config: Arc::new(config), socket, tls })
    }

    pub fn config(&self) -> &ListenerConfig {
        &self.config
    }

    /// Where it really listens: the port that the kernel chose for port 0.
    pub fn local_address(&self) -> Address {
        match &self.socket {
            Socket::Tcp(tcp) => tcp.local_addr().map_or_else(|_| self.config.address.clone(), Address::Tcp),
            Socket::Unix(_) => self.config.address.clone(),
        }
    }

    pub fn certificate(&self) -> Option<Arc<Certificate>> {
        self.tls.clone()
    }

    /// Accepts until the drain begins; with the role `ops`, until its end.
    pub async fn run(self, app: Arc<AppState>, admission: Arc<ConnectionLimiter>, routes: BoxedFilter<(Response,)>) {
        let Self { config, socket, tls } = self;
        let name = Arc::from(config.name.as_str());
        let mut closing = pin!(app.lifecycle.reached(closes_at(&config)));
        loop {
            let accepted = tokio::select! {
                () = &mut closing => break,
                accepted = socket.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(listener = config.name, %error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let admitted = admission.admit(&name, config.max_connections);
            let incoming = Incoming { app: app.clone(), config: config.clone(), routes: routes.clone(), address };
            let acceptor = tls.as_ref().map(|certificate| certificate.acceptor());
            tokio::spawn(async move {
                match admitted {
                    Ok(permit) => incoming.serve(stream, acceptor, permit).await,
                    Err(_) => turn_away(stream, acceptor.is_some()).await,
                }
            });
        }
        if let (Socket::Unix(_), Address::Unix(path)) = (&socket, &config.address) {
            // The socket's name is of no use without the socket.
            let _ = std::fs::remove_file(path);
        }
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    async fn accept(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (tcp, address) = listener.accept().await?;
                // On Linux it is the listening socket's already.
                #[cfg(not(target_os = "linux"))]
                tcp.set_nodelay(true)?;
                Ok((Stream::Tcp(tcp), Some(address.ip())))
            }
            Self::Unix(listener) => listener.accept().await.map(|(unix, _)| (Stream::Unix(unix), None)),
        }
    }
}

/// An accepted connection before its first request.
struct Incoming {
    app: Arc<AppState>,
    config: Arc<ListenerConfig>,
    routes: BoxedFilter<(Response,)>,
    address: Option<IpAddr>,
}

impl Incoming {
    async fn serve(mut self, stream: Stream, acceptor: Option<TlsAcceptor>, permit: Permit) {
        let deadline = self.app.limits.handshake;
        let mut tcp = match stream {
            Stream::Tcp(tcp) => tcp,
            Stream::Unix(unix) => return Box::pin(self.serve_http(unix, permit)).await,
        };
        if self.config.proxy_protocol {
            match timeout(deadline, proxy_protocol::read_header(&mut tcp)).await {
                Ok(Ok(Some(client))) => self.address = Some(client.ip()),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => return tracing::debug!(listener = self.config.name, %error, "no PROXY header"),
                Err(_) => return,
            }
        }
        let is_proxy =
            |ip: IpAddr| self.app.limits.trusted_proxies.iter().any(|range| range.contains(&ip.to_canonical()));
        if let Some(address) = self.address.filter(|address| !is_proxy(*address))
            && permit.assign(ClientAddr::from(address)).is_err()
        {
            return turn_away(Stream::Tcp(tcp), acceptor.is_some()).await;
        }
        // Not `readable`, which is true of a fresh socket before anybody has looked.
        if !matches!(timeout(deadline, tcp.peek(&mut [0])).await, Ok(Ok(1..))) {
            return;
        }
        // Boxed, here and below, so that a connection holds memory only for how far it has come.
        match acceptor {
            None => Box::pin(self.serve_http(tcp, permit)).await,
            Some(acceptor) => Box::pin(self.serve_tls(tcp, acceptor, permit)).await,
        }
    }

    async fn serve_tls(self, tcp: TcpStream, acceptor: TlsAcceptor, permit: Permit) {
        match timeout(self.app.limits.handshake, acceptor.accept(tcp)).await {
            Ok(Ok(tls)) if tls.get_ref().1.alpn_protocol() == Some(HTTP2) => {
                Box::pin(self.serve_http2(tls, permit)).await;
            }
            Ok(Ok(tls)) => Box::pin(self.serve_http(tls, permit)).await,
            Ok(Err(error)) => tracing::debug!(listener = self.config.name, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(listener = self.config.name, "TLS handshake took too long"),
        }
    }

    async fn serve_http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S, permit: Permit) {
        let Self { app, config, routes, address } = self;
        let closes_at = closes_at(&config);
        let peer = Peer { listener: config, address, permit: Arc::new(permit) };
        let io = TokioIo::new(WriteDeadline::new(stream, app.limits.handshake));
        let shared = app.clone();
        let service = service_fn(move |request| edge::handle(shared.clone(), peer.clone(), routes.clone(), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(app.limits.handshake)
            .max_buf_size(app.limits.max_header_bytes.max(MIN_HEAD_BUFFER))
            .serve_connection(io, service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let closing = app.lifecycle.reached(closes_at);
        // How a connection breaks is its client's matter.
        let _ = tokio::select! {
            done = connection.as_mut() => done,
            () = closing => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
    }

    async fn serve_http2(self, stream: TlsStream<TcpStream>, permit: Permit) {
        let Self { app, config, routes, address } = self;
        let closing = app.lifecycle.reached(closes_at(&config));
        let peer = Peer { listener: config, address, permit: Arc::new(permit) };
        let answer = |request| edge::handle(app.clone(), peer.clone(), routes.clone(), request);
        http2::serve(stream, &app.limits, &app.connection_limits, closing, answer).await;
    }
}

/// The phase in which a listener takes no more requests. Operators watch the drain.
fn closes_at(config: &ListenerConfig) -> Phase {
    if config.roles.contains(&Role::Ops) { Phase::Stopped } else { Phase::Draining }
}

/// Tells a client that there is no room, where that can be said in one write.
async fn turn_away(stream: Stream, is_tls: bool) {
    const FULL: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    if is_tls {
        return;
    }
    let written = async {
        match stream {
            Stream::Tcp(mut tcp) => tcp.write_all(FULL).await,
            Stream::Unix(mut unix) => unix.write_all(FULL).await,
        }
    };
    let _ = timeout(Duration::from_secs(1), written).await;
}

/// `silence` is how long a peer may leave what it is sent without any answer of its system.
fn bind_tcp(address: SocketAddr, silence: Duration) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // Linux gives accepted sockets the options of the listening one. Messages are small and wanted now.
    socket.set_tcp_nodelay(true)?;
    // A peer that is gone without a word answers nothing, and on a stream nothing else is asked of it.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(silence))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Takes over the name of a socket that nobody serves any more.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match std::os::unix::net::UnixStream::connect(path) {
                Err(gone) if gone.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                _ => return Err(error),
            }
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { listener, address, error } => {
                write!(f, "listeners.{listener}: cannot listen on {address}: {error}")
            }
            Self::Tls { listener, error } => write!(f, "listeners.{listener}.tls: {error}"),
        }
    }
}

impl std::error::Error for ListenError {}
