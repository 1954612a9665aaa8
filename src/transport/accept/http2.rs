//! HTTP/2 on TLS listeners (RFC 9113): limits per connection, timeouts of stalled streams and idle connections.
//!
//! The socket does not show a stalled stream: its peer reads everything but opens no window. So each response body
//! records since when it waits for its peer. WebSockets are not offered here (RFC 8441): browsers use HTTP/1.1.

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

use super::stream_limits::AnonymousStream;
use super::write_deadline::WriteDeadline;
use crate::broker::ConnectionLimits;
use crate::transport::config::TransportLimits;

/// Concurrent requests of one connection; without a credential fewer, see [`super::stream_limits`].
const MAX_CONCURRENT_STREAMS: u32 = 128;

/// Unread bytes of request bodies: of one stream, and of all streams of a connection.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;

/// The smallest size that RFC 9113 section 6.5.2 allows.
const MAX_FRAME_BYTES: u32 = 16 * 1024;

/// Bytes of one stream's response that wait for the peer's window.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Streams that the peer reset before they were accepted (CVE-2023-44487), and those that it made the gateway reset
/// (CVE-2025-8671). One more ends the connection.
const MAX_RESET_STREAMS: usize = 32;

/// Serves a connection until it ends. When `closing` completes, only the requests under way are finished.
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
        async { answered.await.map(TrackedBody::wrap) }
    });
    let connection = http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_RESET_STREAMS)
        .keep_alive_interval(keepalive.ping)
        .keep_alive_timeout(keepalive.pong)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    // A connection error concerns its client alone.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = closing => {}
        () = streams.idle() => {}
    }
    connection.as_mut().graceful_shutdown();
    // The peer may delay the end, but not forever.
    tokio::select! {
        _ = connection => {}
        () = streams.idle() => {}
    }
}

/// Runs the streams of one connection, each as a task. A stream whose response stalls is reset.
#[derive(Clone)]
struct Streams {
    count: Arc<Mutex<StreamCount>>,
    /// How long a response may stall, and a connection be without a request.
    timeout: Duration,
}

struct StreamCount {
    open: usize,
    /// When a stream last began or ended.
    changed: Instant,
}

impl Streams {
    fn new(timeout: Duration) -> Self {
        Self { count: Arc::new(Mutex::new(StreamCount { open: 0, changed: Instant::now() })), timeout }
    }

    /// Waits until there was no stream for the timeout, counted from now at the earliest.
    async fn idle(&self) {
        let from = Instant::now();
        loop {
            let idle_since = {
                let count = self.count.lock();
                (count.open == 0).then_some(count.changed.max(from))
            };
            match idle_since {
                None => sleep(self.timeout).await,
                Some(since) if since.elapsed() >= self.timeout => return,
                Some(since) => sleep_until(since + self.timeout).await,
            }
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let open = OpenStream::new(&self.count);
        let progress = SendProgress::default();
        let stalled = progress.clone().stalled(self.timeout);
        tokio::spawn(PROGRESS.scope(progress, async move {
            let _open = open;
            tokio::select! {
                () = stream => {}
                () = stalled => {}
            }
        }));
    }
}

/// Counts a stream while it is open.
struct OpenStream(Arc<Mutex<StreamCount>>);

impl OpenStream {
    fn new(count: &Arc<Mutex<StreamCount>>) -> Self {
        let mut locked = count.lock();
        locked.open += 1;
        locked.changed = Instant::now();
        Self(count.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut count = self.0.lock();
        count.open -= 1;
        count.changed = Instant::now();
    }
}

tokio::task_local! {
    /// The progress of the stream that this task runs.
    static PROGRESS: SendProgress;
}

/// Since when a part of a response waits for the peer; `None` while the peer waits for the gateway.
#[derive(Clone, Default)]
struct SendProgress(Arc<Mutex<Option<Instant>>>);

impl SendProgress {
    /// Waits until one part has waited for the timeout.
    async fn stalled(self, timeout: Duration) {
        loop {
            let since = *self.0.lock();
            match since {
                None => sleep(timeout).await,
                Some(since) if since.elapsed() >= timeout => return,
                Some(since) => sleep_until(since + timeout).await,
            }
        }
    }
}

/// A response body that records its progress.
struct TrackedBody<B> {
    body: B,
    progress: SendProgress,
    _anonymous: Option<AnonymousStream>,
}

impl<B> TrackedBody<B> {
    fn wrap(mut response: Response<B>) -> Response<Self> {
        let anonymous = response.extensions_mut().remove();
        let progress = PROGRESS.try_with(SendProgress::clone).unwrap_or_default();
        response.map(|body| Self { body, progress, _anonymous: anonymous })
    }
}

impl<B: Body + Unpin> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        // hyper polls for more only after it has sent the previous part.
        *self.progress.0.lock() = matches!(polled, Poll::Ready(Some(_))).then(Instant::now);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
