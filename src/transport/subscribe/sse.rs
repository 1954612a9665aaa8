//! `GET /v1/events`: a stream of server-sent events (WHATWG HTML, section 9.2) or of JSON lines.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderName, HeaderValue, header};
use warp::Reply;
use warp::reply::Response;

use super::feed::{Event, EventFeed, EventKind};
use super::query::Query;
use crate::broker::connection::registry::Fallback;
use crate::protocol::frame::server_frame::ServerFrame;
use crate::protocol::{Cursor, Refusal};
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;

/// Bytes taken from the outbox at once: the slow consumer check does not see bytes that hyper holds.
const CHUNK_BYTES: usize = 16 * 1024;

/// How long an EventSource waits before it reconnects, in milliseconds.
const RETRY_FIELD: &str = "retry: 2000\n\n";

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Responds with a refusal in plain HTTP, or with a stream whose last event is the close reason.
pub async fn events(app: Arc<AppState>, call: RequestContext) -> Result<Response, Refusal> {
    let query = Query::read(&call)?;
    let format = Format::of(&call);
    let feed = EventFeed::open(app, &call, &query, format.fallback()).await?;
    let preamble = if format == Format::EventStream { RETRY_FIELD.to_owned() } else { String::new() };
    let mut response = warp::reply::stream(EventBody { feed, format, preamble }).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    // nginx would buffer the stream.
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    EventStream,
    Lines,
}

/// The response body. Dropping it unsubscribes.
struct EventBody {
    feed: EventFeed,
    format: Format,
    /// Sent before all events.
    preamble: String,
}

impl Stream for EventBody {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { feed, format, preamble } = &mut *self;
        let mut chunk = std::mem::take(preamble);
        let mut has_moved = false;
        let is_over = loop {
            if chunk.len() >= CHUNK_BYTES {
                break false;
            }
            match feed.poll_next(cx) {
                Poll::Ready(Some(event)) => {
                    has_moved |= matches!(event, Event::Text(EventKind::Message | EventKind::Subscribed, _));
                    format.write(&mut chunk, &event, feed.cursor());
                }
                Poll::Ready(None) => break true,
                Poll::Pending => break false,
            }
        };
        if has_moved && *format == Format::Lines {
            push_line(&mut chunk, &ServerFrame::Cursor { cursor: feed.cursor() }.to_json());
        }
        match is_over {
            _ if !chunk.is_empty() => Poll::Ready(Some(Ok(chunk.into()))),
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    }
}

impl Drop for EventBody {
    fn drop(&mut self) {
        self.feed.abandon();
    }
}

impl Format {
    /// JSON lines for a client that accepts them and does not name event streams.
    fn of(call: &RequestContext) -> Self {
        let named = |media_type: &str| {
            let accepted = call.headers().get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
            let ranges = accepted.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
            ranges.map(str::trim).any(|range| range.eq_ignore_ascii_case(media_type))
        };
        if named("application/x-ndjson") && !named("text/event-stream") { Self::Lines } else { Self::EventStream }
    }

    fn fallback(self) -> Fallback {
        match self {
            Self::EventStream => Fallback::Events,
            Self::Lines => Fallback::Lines,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::EventStream => "text/event-stream; charset=utf-8",
            Self::Lines => "application/x-ndjson",
        }
    }

    fn write(self, chunk: &mut String, event: &Event, cursor: &Cursor) {
        use std::fmt::Write as _;
        match (self, event) {
            (Self::EventStream, Event::Heartbeat) => chunk.push_str(":\n\n"),
            (Self::Lines, Event::Heartbeat) => chunk.push('\n'),
            (Self::EventStream, Event::Text(kind, text)) => {
                chunk.push_str(match kind {
                    EventKind::Message => "",
                    EventKind::Subscribed => "event: subscribed\n",
                    EventKind::Unsubscribed => "event: unsubscribed\n",
                    EventKind::Degraded => "event: degraded\n",
                    EventKind::Restored => "event: restored\n",
                });
                if matches!(kind, EventKind::Message | EventKind::Subscribed) {
                    // Writing to memory does not fail.
                    let _ = writeln!(chunk, "id: {cursor}");
                }
                push_event(chunk, &String::from_utf8_lossy(text));
            }
            (Self::EventStream, Event::Close(reason)) => {
                chunk.push_str("event: close\n");
                push_event(chunk, &ServerFrame::close(*reason).to_json());
            }
            (Self::Lines, Event::Text(_, text)) => push_line(chunk, &String::from_utf8_lossy(text)),
            (Self::Lines, Event::Close(reason)) => push_line(chunk, &ServerFrame::close(*reason).to_json()),
        }
    }
}

fn push_event(chunk: &mut String, json: &str) {
    chunk.push_str("data: ");
    push_line(chunk, json);
    chunk.push('\n');
}

/// Line ends in JSON occur only between tokens, where a space is equivalent.
fn push_line(chunk: &mut String, json: &str) {
    let mut parts = json.split(['\r', '\n']);
    chunk.push_str(parts.next().unwrap_or(""));
    for part in parts {
        chunk.push(' ');
        chunk.push_str(part);
    }
    chunk.push('\n');
}
