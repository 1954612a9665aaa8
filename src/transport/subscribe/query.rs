//! The query of a fallback request: channels, positions, cursor and wait.

use std::time::Duration;

use http::HeaderName;
use percent_encoding::percent_decode_str;

use crate::broker::engine::Start;
use crate::protocol::{ChannelName, Cursor, ErrorCode, Position, Refusal, cursor};
use crate::transport::http::request::RequestContext;

const DEFAULT_WAIT: Duration = Duration::from_secs(25);

/// Proxies tend to end a request that waits longer for its response.
const MAX_WAIT: Duration = Duration::from_secs(60);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

#[derive(Debug)]
pub struct Query {
    /// Each with its `since` or `backlog`.
    pub channels: Vec<(ChannelName, Option<Start>)>,
    pub cursor: Option<Cursor>,
    /// How long a poll may wait.
    pub wait: Duration,
}

impl Query {
    /// Unknown parameters are ignored.
    pub fn read(call: &RequestContext) -> Result<Self, Refusal> {
        let mut query = Self { channels: Vec::new(), cursor: None, wait: DEFAULT_WAIT };
        for pair in call.query().unwrap_or("").split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            query.set(name, &decode(value)?)?;
        }
        if query.channels.is_empty() {
            return Err(malformed("the query names no channel (?channel=…&channel=…)"));
        }
        // An EventSource reconnects with its first URL, so the header is newer than the query.
        if call.headers().contains_key(&LAST_EVENT_ID) {
            let last = call.header(LAST_EVENT_ID).ok_or(cursor::InvalidCursor::Malformed)?;
            if !last.is_empty() {
                query.cursor = Some(Cursor::parse(last)?);
            }
        }
        Ok(query)
    }

    /// Whether the request resumes from a position, so that it may wait for messages.
    pub fn is_resuming(&self) -> bool {
        self.cursor.is_some() || self.channels.iter().any(|(_, start)| matches!(start, Some(Start::Since(_))))
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        match name {
            "channel" => {
                let channel = ChannelName::parse(value)
                    .map_err(|error| Refusal::new(ErrorCode::ChannelInvalid, error.to_string()))?;
                if self.channels.len() == cursor::MAX_CHANNELS {
                    return Err(Refusal::new(ErrorCode::LimitReached, "too many channels in one request (100)"));
                }
                self.channels.push((channel, None));
            }
            "since" | "backlog" => {
                let Some((_, start @ None)) = self.channels.last_mut() else {
                    return Err(malformed("`since` or `backlog` must follow its `channel`, once"));
                };
                *start = Some(if name == "since" { since(value)? } else { Start::Backlog(number(value)?) });
            }
            "cursor" if self.cursor.is_some() => return Err(malformed("`cursor` is given twice")),
            "cursor" => self.cursor = Some(Cursor::parse(value)?),
            "wait" => self.wait = Duration::from_secs(number(value)?).min(MAX_WAIT),
            _ => {}
        }
        Ok(())
    }
}

/// The position of a `message_id`.
fn since(value: &str) -> Result<Start, Refusal> {
    let (epoch, offset) = value.rsplit_once('-').ok_or(malformed("`since` must be a `message_id`"))?;
    Ok(Start::Since(Position { epoch: epoch.into(), offset: number(offset)? }))
}

fn number(value: &str) -> Result<u64, Refusal> {
    let is_plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| is_plain).ok_or(malformed("invalid number in the query"))
}

/// A value as HTML forms and `URLSearchParams` encode it.
fn decode(value: &str) -> Result<String, Refusal> {
    let spaced = value.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| malformed("the query is not UTF-8"))?;
    Ok(decoded.into_owned())
}

fn malformed(detail: &'static str) -> Refusal {
    Refusal::new(ErrorCode::Malformed, detail)
}
