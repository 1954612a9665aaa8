//! What a request for a fallback asks for: its query and where it wants to go on.

use std::time::Duration;

use http::HeaderName;
use percent_encoding::percent_decode_str;

use crate::broker::engine::Start;
use crate::protocol::{ChannelName, Cursor, ErrorCode, Position, Refusal, cursor};
use crate::transport::http::request::RequestContext;

const DEFAULT_WAIT: Duration = Duration::from_secs(25);

/// Longer than this, proxies tend to end a request that nothing comes back on.
const MAX_WAIT: Duration = Duration::from_secs(60);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

#[derive(Debug)]
pub struct Query {
    /// With what was asked for besides the cursor.
    pub channels: Vec<(ChannelName, Option<Start>)>,
    pub cursor: Option<Cursor>,
    /// How long a poll may wait.
    pub wait: Duration,
}

impl Query {
    /// Parameters that it does not know are passed over.
    pub fn read(call: &RequestContext) -> Result<Self, Refusal> {
        let mut asked = Self { channels: Vec::new(), cursor: None, wait: DEFAULT_WAIT };
        for pair in call.query().unwrap_or("").split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            asked.take(name, &decode(value)?)?;
        }
        if asked.channels.is_empty() {
            return Err(malformed("name the channels: ?channel=…&channel=…"));
        }
        // An EventSource that reconnects asks for the address it began with, so the header is the newer word.
        if call.headers().contains_key(&LAST_EVENT_ID) {
            let last = call.header(LAST_EVENT_ID).ok_or(cursor::InvalidCursor::Malformed)?;
            if !last.is_empty() {
                asked.cursor = Some(Cursor::parse(last)?);
            }
        }
        Ok(asked)
    }

    /// Whether it goes on from somewhere: nothing need be there yet.
    pub fn goes_on(&self) -> bool {
        self.cursor.is_some() || self.channels.iter().any(|(_, start)| matches!(start, Some(Start::Since(_))))
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        match name {
            "channel" => {
                let channel = ChannelName::parse(value)
                    .map_err(|error| Refusal::new(ErrorCode::ChannelInvalid, error.to_string()))?;
                if self.channels.len() == cursor::MAX_CHANNELS {
                    return Err(Refusal::new(ErrorCode::LimitReached, "a request is for at most 100 channels"));
                }
                self.channels.push((channel, None));
            }
            "since" | "backlog" => {
                let Some((_, start @ None)) = self.channels.last_mut() else {
                    return Err(malformed("`since` or `backlog` stands once behind its `channel`"));
                };
                *start = Some(if name == "since" { since(value)? } else { Start::Backlog(number(value)?) });
            }
            "cursor" if self.cursor.is_some() => return Err(malformed("there is one `cursor`")),
            "cursor" => self.cursor = Some(Cursor::parse(value)?),
            "wait" => self.wait = Duration::from_secs(number(value)?).min(MAX_WAIT),
            _ => {}
        }
        Ok(())
    }
}

/// A position as a `message_id` has it.
fn since(value: &str) -> Result<Start, Refusal> {
    let (epoch, offset) = value.rsplit_once('-').ok_or(malformed("`since` is a `message_id`"))?;
    Ok(Start::Since(Position { epoch: epoch.into(), offset: number(offset)? }))
}

fn number(value: &str) -> Result<u64, Refusal> {
    let is_plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| is_plain).ok_or(malformed("a number in the query cannot be read"))
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
