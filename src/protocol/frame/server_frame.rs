//! Frames to native subscribers and publishers, without publications.

use std::fmt::Write as _;

use serde::Serialize;

use super::error_code::{ErrorFrame, Refusal};
use crate::protocol::json::push_json_string;
use crate::protocol::{CloseReason, Cursor, Position};

/// A text frame to a client.
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
        /// The name of a close reason, if the gateway ended the subscription.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
        /// The code of the same close reason.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<u16>,
    },
    /// The node has no connection to the engine: publications are late or lost. The subscription stays.
    Degraded {
        channel: &'a str,
    },
    /// The subscription is current again, without a gap.
    Restored {
        channel: &'a str,
    },
    /// End of an event stream or poll, in place of the Close frame of a WebSocket.
    Close {
        code: u16,
        reason: &'static str,
    },
    /// Position for resuming a stream of JSON lines.
    Cursor {
        cursor: &'a Cursor,
    },
    Refreshed {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        expires: String,
    },
    /// The publisher acknowledged the reply.
    Replied {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    },
    /// To a publisher: its answer is in the outbox of the subscriber's connection.
    Answered {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    },
    /// To a publisher: presence events of its channel follow.
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
    /// Presence event, to a publisher: the subscribers of its channel changed.
    Event {
        channel: &'a str,
        event: Event,
        #[serde(skip_serializing_if = "Option::is_none")]
        connection: Option<&'a str>,
        /// The node of the connection, in a cluster.
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<&'a str>,
        /// Absent for a subscriber without a token.
        #[serde(skip_serializing_if = "Option::is_none")]
        principal: Option<Person<'a>>,
        /// The close reason of an ended channel.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
        /// Number of subscribers after the event, on all nodes.
        connections: u64,
        /// Number of events before this one that were dropped because the publisher read too slowly.
        #[serde(skip_serializing_if = "is_zero")]
        missed: u64,
    },
    Pong {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    },
    Error(ErrorFrame<'a>),
}

/// Kind of a presence event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Subscribed,
    Unsubscribed,
    Ended,
    /// The count changed without an event: a node joined, left, or an update was lost.
    Counted,
}

/// Principal of a subscriber.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Person<'a> {
    pub issuer: &'a str,
    pub subject: &'a str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl<'a> ServerFrame<'a> {
    pub fn error(id: Option<&'a str>, refusal: &'a Refusal) -> Self {
        Self::Error(ErrorFrame::new(id, refusal))
    }

    /// The frame for a subscription that the gateway ended.
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

/// Appends the answer to a publication. Written by hand, because publishers receive millions of them.
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
    fn writes_server_frames() {
        let check = |frame: ServerFrame<'_>, expected: &str| assert_eq!(frame.to_json(), expected);
        check(ServerFrame::Pong { id: Some("7") }, r#"{"type":"pong","id":"7"}"#);
        check(
            ServerFrame::ended("prices.btc", CloseReason::ChannelClosed),
            r#"{"type":"unsubscribed","channel":"prices.btc","reason":"channel_closed","code":4504}"#,
        );
        check(
            ServerFrame::error(Some("1"), &ErrorCode::Forbidden.into()),
            r#"{"type":"error","id":"1","code":"forbidden","message":"not allowed","temporary":false}"#,
        );
        let mut json = String::new();
        published(&mut json, Some("1\""), "c", &Position { epoch: "k3".into(), offset: 7 });
        assert_eq!(
            json,
            r#"{"type":"published","id":"1\"","channel":"c","message_id":"k3-7","offset":7,"epoch":"k3"}"#
        );
    }
}
