//! `GET /v1/poll`: one answer with everything behind a cursor, or as soon as there is something.

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
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;

/// An answer is complete when it has this many bytes; the rest comes with the next one.
const ANSWER_BYTES: usize = 256 * 1024;

/// How long the first message waits for those right behind it.
const LINGER: Duration = Duration::from_millis(5);

/// Between two polls nothing is held here: the cursor and the backlog make them whole.
pub async fn poll(app: Arc<AppState>, call: RequestContext) -> Result<Response, Refusal> {
    let asked = Query::read(&call)?;
    let feed = EventFeed::open(app, &call, &asked, Fallback::Poll).await?;
    // Without a cursor there is nothing to wait for: the client needs one before it can miss anything.
    let wait = if asked.goes_on() { asked.wait } else { Duration::ZERO };
    let json = Answer::collect(feed, wait).await;
    let mut response = json.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Lists of JSON objects, without their brackets.
#[derive(Default)]
struct Answer {
    messages: String,
    subscribed: String,
    unsubscribed: String,
    close: Option<CloseReason>,
}

impl Answer {
    async fn collect(mut feed: EventFeed, wait: Duration) -> String {
        let mut answer = Self::default();
        let mut deadline = Instant::now() + wait;
        while answer.messages.len() < ANSWER_BYTES {
            // What is there already is taken also after the deadline.
            let next = timeout_at(deadline, poll_fn(|cx| feed.poll_next(cx))).await;
            match next {
                // The next poll is refused for as long as that lasts.
                Ok(Some(Event::Heartbeat | Event::Text(EventKind::Degraded | EventKind::Restored, _))) => {}
                Ok(Some(Event::Text(kind, text))) => {
                    let list = match kind {
                        EventKind::Message => &mut answer.messages,
                        EventKind::Subscribed => &mut answer.subscribed,
                        _ => &mut answer.unsubscribed,
                    };
                    if !list.is_empty() {
                        list.push(',');
                    }
                    list.push_str(&String::from_utf8_lossy(&text));
                    if kind != EventKind::Subscribed {
                        deadline = deadline.min(Instant::now() + LINGER);
                    }
                }
                // More came than an answer holds; the backlog has it.
                Ok(Some(Event::Close(CloseReason::SlowConsumer))) => break,
                Ok(Some(Event::Close(reason))) => {
                    answer.close = Some(reason);
                    break;
                }
                Ok(None) | Err(_) => break,
            }
        }
        answer.to_json(&feed)
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
