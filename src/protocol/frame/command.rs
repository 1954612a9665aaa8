//! What clients of our own protocol say on a WebSocket (subprotocols `lastmile.v1`): subscribers and publishers.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::publication::{MAX_JSON_DEPTH, check_depth};
use crate::protocol::{ErrorCode, Refusal};

/// A JSON string, borrowed where nothing is escaped.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// One JSON text frame of a client. Members that a `type` does not know are ignored, so that newer clients
/// can talk to older gateways.
#[derive(Debug, Deserialize)]
pub struct Command<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    /// Chosen by the client and repeated in the answer.
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
    /// The message that is replied to.
    #[serde(borrow, default)]
    pub to: Option<Text<'a>>,
    /// A `reply` that asks for an answer.
    #[serde(default)]
    pub answer: Option<bool>,
    /// The reply that a publisher has, or answers.
    #[serde(borrow, default)]
    pub reply: Option<Text<'a>>,
}

/// What is there, also if it is `null`, which the library would take for nothing.
pub(super) fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// The last publication that a subscriber has seen.
#[derive(Debug, Deserialize)]
pub struct Since<'a> {
    #[serde(borrow)]
    pub epoch: Text<'a>,
    pub offset: u64,
}

/// Longest `id` of a client, in bytes: it is repeated in the answer.
const MAX_ID_BYTES: usize = 128;

/// Why a frame is no command.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Not JSON at all: the peer speaks something else.
    NotJson,
    /// JSON that a client can be told about.
    Refused(Refusal),
}

impl<'a> Command<'a> {
    pub fn parse(text: &'a str) -> Result<Self, Unreadable> {
        let malformed = |detail: String| Unreadable::Refused(Refusal::new(ErrorCode::Malformed, detail));
        // A publication's data may have its full depth inside the command.
        check_depth(text, MAX_JSON_DEPTH + 1).map_err(Unreadable::Refused)?;
        let command: Self = serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => malformed(format!("not a command: {error}")),
            _ => Unreadable::NotJson,
        })?;
        // The library would take a list for the members in their order.
        if !text.trim_start().starts_with('{') {
            return Err(malformed("a command is an object".into()));
        }
        if command.id().is_some_and(|id| id.len() > MAX_ID_BYTES) {
            return Err(malformed("`id` has at most 128 bytes".into()));
        }
        Ok(command)
    }

    pub fn id(&self) -> Option<&str> {
        self.id.as_ref().map(|id| id.0.as_ref())
    }

    pub fn token(&self) -> Option<&str> {
        self.token.as_ref().map(|token| token.0.as_ref())
    }
}
