//! `GET /v1/poll`: one response with the messages behind a cursor, sent as soon as there are any.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, header};
use tokio::time::{Instant, timeout_at};
use warp::Reply;
use warp::reply::Response;

use super::feed::{Event, EventFeed, EventKind};
use super::query::Query;
use crate::broker::connection::registry::Fallback;
use crate::protocol::frame::server_frame::ServerFrame;
use crate::protocol::{CloseReason, Refusal};
use crate::transport::http::delayed_body::DelayedBody;
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;

/// A response is complete at this size; the rest follows in the next one.
const FULL_RESPONSE_BYTES: usize = 256 * 1024;

/// How long the first message waits for those right behind it.
const BATCH_DELAY: Duration = Duration::from_millis(5);

/// The gateway keeps nothing between two polls: cursor and backlog cover the time in between.
pub async fn poll(app: Arc<AppState>, call: RequestContext) -> Result<Response, Refusal> {
    let query = Query::read(&call)?;
    let feed = EventFeed::open(app, &call, &query, Fallback::Poll).await?;
    // Without a cursor the response is immediate: the client needs one before it can miss anything.
    let wait = if query.is_resuming() { query.wait } else { Duration::ZERO };
    let mut response = String::new().into_response();
    response.extensions_mut().insert(DelayedBody::new(PollResponse::collect(feed, wait)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Lists of JSON objects, without their brackets.
#[derive(Default)]
struct PollResponse {
    messages: String,
    subscribed: String,
    unsubscribed: String,
    close: Option<CloseReason>,
}

impl PollResponse {
    async fn collect(mut feed: EventFeed, wait: Duration) -> String {
        let mut response = Self::default();
        let mut deadline = Instant::now() + wait;
        while response.messages.len() < FULL_RESPONSE_BYTES {
            // Available events are taken also after the deadline.
            let next = timeout_at(deadline, poll_fn(|cx| feed.poll_next(cx))).await;
            match next {
                // While a channel is degraded, the next poll is refused.
                Ok(Some(Event::Heartbeat | Event::Text(EventKind::Degraded | EventKind::Restored, _))) => {}
                Ok(Some(Event::Text(kind, text))) => {
                    let list = match kind {
                        EventKind::Message => &mut response.messages,
                        EventKind::Subscribed => &mut response.subscribed,
                        _ => &mut response.unsubscribed,
                    };
                    if !list.is_empty() {
                        list.push(',');
                    }
                    list.push_str(&String::from_utf8_lossy(&text));
                    if kind != EventKind::Subscribed {
                        deadline = deadline.min(Instant::now() + BATCH_DELAY);
                    }
                }
                // The outbox overflowed: the next poll reads the rest from the backlog.
                Ok(Some(Event::Close(CloseReason::SlowConsumer))) => break,
                Ok(Some(Event::Close(reason))) => {
                    response.close = Some(reason);
                    break;
                }
                Ok(None) | Err(_) => break,
            }
        }
        response.to_json(&feed)
    }

    fn to_json(&self, feed: &EventFeed) -> String {
        let Self { messages, subscribed, unsubscribed, close } = self;
        let (cursor, recovered) = (feed.cursor(), feed.recovered());
        let mut json = format!(
            r#"{{"messages":[{messages}],"cursor":"{cursor}","recovered":{recovered},"subscribed":[{subscribed}]"#
        );
        if !unsubscribed.is_empty() {
            json.push_str(&format!(r#","unsubscribed":[{unsubscribed}]"#));
        }
        if let Some(reason) = close {
            json.push_str(&format!(r#","close":{}"#, ServerFrame::close(*reason).to_json()));
        }
        json.push('}');
        json
    }
}
