//! HTTP/2 on TLS listeners (RFC 9113): what one connection may hold and how often it may change its mind, and the end
//! of streams whose answers are not read and of connections that nobody uses.
//!
//! A stream that stands still cannot be told from the socket: its peer takes everything but gives no window. So each
//! answer notes since when it waits for its peer. WebSockets are not offered here (RFC 8441): browsers use HTTP/1.1.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};

use super::write_deadline::WriteDeadline;
use crate::broker::ConnectionLimits;
use crate::transport::config::TransportLimits;

/// Requests of one connection at a time.
const MAX_STREAMS: u32 = 128;

/// Bytes of request bodies that may come before they are read: of one stream, and of all streams.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// The smallest that the standard allows.
const MAX_FRAME_BYTES: u32 = 16 * 1024;

/// Bytes of one stream's answer that wait for the peer's window.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Streams that the peer took back before they were looked at (CVE-2023-44487), and those that it made the gateway
/// reset (CVE-2025-8671); one more ends the connection.
const MAX_RESET_STREAMS: usize = 32;

/// Serves a connection until its end, its peer's or, from `closing` on, that of the requests which are under way.
pub async fn serve<S, A, F, B>(
    stream: S,
    limits: &TransportLimits,
    keepalive: &ConnectionLimits,
    closing: impl Future<Output = ()>,
    answer: A,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: std::error::Error + Send + Sync,
{
    let streams = Streams::new(limits.handshake);
    let io = TokioIo::new(WriteDeadline::new(stream, limits.handshake));
    let service = service_fn(|request| {
        let answered = answer(request);
        async { answered.await.map(|response| response.map(Watched::new)) }
    });
    let connection = http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_RESET_STREAMS)
        .keep_alive_interval(keepalive.ping)
        .keep_alive_timeout(keepalive.pong)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    // How a connection breaks is its client's matter.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = closing => {}
        () = streams.unused() => {}
    }
    connection.as_mut().graceful_shutdown();
    // The peer may hold up its end, but not for ever.
    tokio::select! {
        _ = connection => {}
        () = streams.unused() => {}
    }
}

/// The streams of one connection, each a task. Told when its answer is not read, a stream is reset.
#[derive(Clone)]
struct Streams {
    usage: Arc<Mutex<Usage>>,
    /// How long an answer may stand still, and a connection be without a request.
    patience: Duration,
}

struct Usage {
    open: usize,
    /// The last time that a stream began or ended.
    changed: Instant,
}

impl Streams {
    fn new(patience: Duration) -> Self {
        Self { usage: Arc::new(Mutex::new(Usage { open: 0, changed: Instant::now() })), patience }
    }

    /// Waits until there was no stream for a while, from now on.
    async fn unused(&self) {
        let from = Instant::now();
        loop {
            let idle_since = {
                let usage = self.usage.lock();
                (usage.open == 0).then_some(usage.changed.max(from))
            };
            match idle_since {
                None => sleep(self.patience).await,
                Some(since) if since.elapsed() >= self.patience => return,
                Some(since) => sleep_until(since + self.patience).await,
            }
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let open = Open::new(&self.usage);
        let pace = Pace::default();
        let stalled = pace.clone().stalled(self.patience);
        tokio::spawn(PACE.scope(pace, async move {
            let _open = open;
            tokio::select! {
                () = stream => {}
                () = stalled => {}
            }
        }));
    }
}

/// Counts a stream while it is there.
struct Open(Arc<Mutex<Usage>>);

impl Open {
    fn new(usage: &Arc<Mutex<Usage>>) -> Self {
        let mut state = usage.lock();
        state.open += 1;
        state.changed = Instant::now();
        Self(usage.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut usage = self.0.lock();
        usage.open -= 1;
        usage.changed = Instant::now();
    }
}

tokio::task_local! {
    /// The pace of the stream that this task is.
    static PACE: Pace;
}

/// Since when a part of an answer waits for its peer; `None` while the peer waits.
#[derive(Clone, Default)]
struct Pace(Arc<Mutex<Option<Instant>>>);

impl Pace {
    /// Waits until one part has waited for too long.
    async fn stalled(self, patience: Duration) {
        loop {
            let since = *self.0.lock();
            match since {
                None => sleep(patience).await,
                Some(since) if since.elapsed() >= patience => return,
                Some(since) => sleep_until(since + patience).await,
            }
        }
    }
}

/// The body of an answer, which notes its pace.
struct Watched<B> {
    body: B,
    pace: Pace,
}

impl<B> Watched<B> {
    fn new(body: B) -> Self {
        Self { body, pace: PACE.try_with(Pace::clone).unwrap_or_default() }
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        // Asked for more, hyper has sent all it was given.
        *self.pace.0.lock() = matches!(polled, Poll::Ready(Some(_))).then(Instant::now);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
