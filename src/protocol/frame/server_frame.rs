//! What the gateway answers on a WebSocket of our own protocol, beside the publications.

use std::fmt::Write as _;

use serde::Serialize;

use crate::protocol::publication::push_json_string;
use crate::protocol::{CloseReason, Cursor, Position, Refusal};

/// One JSON text frame to a client.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame<'a> {
    /// The first frame of a session.
    Welcome {
        connection: &'a str,
        ping_secs: u64,
        /// `null` for a session without a token.
        principal: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires: Option<String>,
    },
    Subscribed {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        channel: &'a str,
        epoch: &'a str,
        offset: u64,
        recovered: bool,
    },
    Unsubscribed {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        channel: &'a str,
        /// Set when the client did not ask for it: the name of a close reason.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
        /// The number of the same close reason.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<u16>,
    },
    /// The node is cut off: what is published on this channel comes later, or never. The subscription stays.
    Degraded { channel: &'a str },
    /// Everything came, and it goes on.
    Restored { channel: &'a str },
    /// How a fallback's stream ends; a WebSocket has a Close frame for it.
    Close { code: u16, reason: &'static str },
    /// From where a stream of JSON lines can be resumed.
    Cursor { cursor: &'a Cursor },
    Refreshed {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        expires: String,
    },
    /// The publisher has the reply.
    Replied {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    },
    /// To a publisher: its answer was handed to the subscriber's connection.
    Answered {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    },
    /// To a publisher that asked for events of its channel: from now on it is told.
    Watching {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        channel: &'a str,
        connections: u64,
    },
    Unwatched {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        channel: &'a str,
    },
    /// To a publisher: who listens to its channel changed.
    Event {
        channel: &'a str,
        event: Event,
        #[serde(skip_serializing_if = "Option::is_none")]
        connection: Option<&'a str>,
        /// The node of the connection, where there are several.
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<&'a str>,
        /// Left out for a subscriber without a token.
        #[serde(skip_serializing_if = "Option::is_none")]
        principal: Option<Person<'a>>,
        /// Why the channel ended: the name of a close reason.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
        /// Subscribers after it, on all nodes.
        connections: u64,
        /// Events before this one that were left out because the publisher read too slowly.
        #[serde(skip_serializing_if = "is_zero")]
        missed: u64,
    },
    Pong {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    },
    Error {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        code: String,
        message: &'a str,
        temporary: bool,
    },
}

/// What happened to the subscribers of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Subscribed,
    Unsubscribed,
    Ended,
    /// The number changed, and nobody said why: a node came or went, or its words were lost.
    Counted,
}

/// A subscriber as its issuer names it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Person<'a> {
    pub issuer: &'a str,
    pub subject: &'a str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the serializer hands a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl<'a> ServerFrame<'a> {
    pub fn error(id: Option<&'a str>, refusal: &'a Refusal) -> Self {
        Self::Error { id, code: refusal.code.name(), message: &refusal.detail, temporary: refusal.code.is_temporary() }
    }

    /// The gateway ended a subscription.
    pub fn ended(channel: &'a str, reason: CloseReason) -> Self {
        Self::Unsubscribed { id: None, channel, reason: Some(reason.name()), code: Some(reason.code()) }
    }

    pub fn close(reason: CloseReason) -> Self {
        Self::Close { code: reason.code(), reason: reason.name() }
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers are JSON")
    }
}

/// The answer to a publication, written by hand because publishers get millions of them.
pub fn published(json: &mut String, id: Option<&str>, channel: &str, position: &Position) {
    json.push_str(r#"{"type":"published","#);
    if let Some(id) = id {
        json.push_str(r#""id":"#);
        push_json_string(json, id);
        json.push(',');
    }
    json.push_str(r#""channel":"#);
    push_json_string(json, channel);
    let Position { epoch, offset } = position;
    let _ = write!(json, r#","message_id":"{epoch}-{offset}","offset":{offset},"epoch":"{epoch}"}}"#);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ErrorCode;

    #[test]
    fn replies_are_written_as_the_protocol_says() {
        let check = |reply: ServerFrame<'_>, expected: &str| assert_eq!(reply.to_json(), expected);
        check(ServerFrame::Pong { id: Some("7") }, r#"{"type":"pong","id":"7"}"#);
        check(
            ServerFrame::ended("prices.btc", CloseReason::ChannelClosed),
            r#"{"type":"unsubscribed","channel":"prices.btc","reason":"channel_closed","code":4504}"#,
        );
        check(
            ServerFrame::error(Some("1"), &ErrorCode::Forbidden.into()),
            r#"{"type":"error","id":"1","code":"forbidden","message":"This is not allowed.","temporary":false}"#,
        );
        let mut json = String::new();
        published(&mut json, Some("1\""), "c", &Position { epoch: "k3".into(), offset: 7 });
        assert_eq!(
            json,
            r#"{"type":"published","id":"1\"","channel":"c","message_id":"k3-7","offset":7,"epoch":"k3"}"#
        );
    }
}
