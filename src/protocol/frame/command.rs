//! Commands of subscribers and publishers on a native WebSocket (subprotocol `lastmile.v1`).

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::json::{MAX_JSON_DEPTH, Text, check_depth, present};
use crate::protocol::{ErrorCode, Refusal};

/// A text frame of a client. Unknown members are ignored, so that newer clients can use older gateways.
#[derive(Debug, Deserialize)]
pub struct Command<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    /// Chosen by the client, returned in the answer.
    #[serde(borrow, default)]
    pub id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub channel: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub token: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub encoding: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub since: Option<Since<'a>>,
    #[serde(default)]
    pub backlog: Option<u64>,
    /// The id of the message that a `reply` refers to.
    #[serde(borrow, default)]
    pub to: Option<Text<'a>>,
    /// Whether a `reply` requests an answer.
    #[serde(default)]
    pub answer: Option<bool>,
    /// The id of the reply that a publisher acknowledges or answers.
    #[serde(borrow, default)]
    pub reply: Option<Text<'a>>,
}

/// Position of the last publication that a subscriber received.
#[derive(Debug, Deserialize)]
pub struct Since<'a> {
    #[serde(borrow)]
    pub epoch: Text<'a>,
    pub offset: u64,
}

/// Longest `id` of a command. Answers and room messages repeat it.
const MAX_ID_BYTES: usize = 128;

/// Why a frame is not a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Not JSON: the peer uses another protocol.
    NotJson,
    /// JSON that the gateway refuses with an `error` frame.
    Refused(Refusal),
}

/// Parses a command: one JSON object whose `id` has at most [`MAX_ID_BYTES`].
///
/// `describe` writes the detail of a member with a wrong type; it decides whether that may repeat the member.
pub(super) fn parse_command<'a, T: Deserialize<'a>>(
    text: &'a str,
    id: impl Fn(&T) -> Option<&str>,
    describe: impl Fn(&serde_json::Error) -> String,
) -> Result<T, Unreadable> {
    let malformed = |detail: String| Unreadable::Refused(Refusal::new(ErrorCode::Malformed, detail));
    // One more level than publications, whose data is a member of the command.
    check_depth(text, MAX_JSON_DEPTH + 1).map_err(Unreadable::Refused)?;
    let command: T = serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => malformed(describe(&error)),
        _ => Unreadable::NotJson,
    })?;
    // Serde accepts a list in place of an object.
    if !text.trim_start().starts_with('{') {
        return Err(malformed("a command is an object".into()));
    }
    if id(&command).is_some_and(|id| id.len() > MAX_ID_BYTES) {
        return Err(malformed("`id` has at most 128 bytes".into()));
    }
    Ok(command)
}

impl<'a> Command<'a> {
    pub fn parse(text: &'a str) -> Result<Self, Unreadable> {
        parse_command(text, Self::id, |error| format!("not a command: {error}"))
    }

    pub fn id(&self) -> Option<&str> {
        self.id.as_ref().map(|id| id.0.as_ref())
    }

    pub fn token(&self) -> Option<&str> {
        self.token.as_ref().map(|token| token.0.as_ref())
    }
}
