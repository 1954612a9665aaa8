//! The flock protocol: JSON text frames of publications and commands.
//!
//! Close frames contain the error texts of `serde_json`. Names and order of the variants are therefore part of the wire
//! format, as is the order of the keys in frames to clients.

use bytes::Bytes;
use serde::Deserialize;

use crate::protocol::json::push_json_string;
use crate::protocol::{ChannelName, websocket};

/// Client to server. Unknown members are ignored.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type")]
pub enum Command {
    Subscribe { request_id: String, topic: String },
    Unsubscribe { request_id: String, topic: String },
    Ping,
}

impl Command {
    /// The error is the reason of the Close frame.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}

/// The answer to a command, with the state of the subscription after it.
pub fn response_frame(request_id: &str, subscribed: bool, topic: &str) -> Bytes {
    let mut json = String::with_capacity(64 + request_id.len() + topic.len());
    json.push_str(r#"{"request_id":"#);
    push_json_string(&mut json, request_id);
    json.push_str(if subscribed { r#","subscribed":true,"topic":"# } else { r#","subscribed":false,"topic":"# });
    push_json_string(&mut json, topic);
    json.push_str(r#","type":"response"}"#);
    websocket::text_frame(json.as_bytes())
}

/// The frame of a publication. `data` is JSON text.
pub fn event_frame(channel: &ChannelName, data: &str) -> Bytes {
    let topic = channel.topic();
    let mut json = String::with_capacity(40 + topic.len() + data.len());
    json.push_str(r#"{"payload":"#);
    json.push_str(data);
    json.push_str(r#","topic":"#);
    push_json_string(&mut json, &topic);
    json.push_str(r#","type":"event"}"#);
    websocket::text_frame(json.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_serde_texts() {
        let check = |text: &str, expected: &str| assert_eq!(Command::parse(text).unwrap_err(), expected, "{text}");
        check("x", "expected value at line 1 column 1");
        check("{}", "missing field `type` at line 1 column 2");
        check(r#"{"type":"Subscribe","topic":"t1"}"#, "missing field `request_id`");
        check(
            r#"{"type":"Foo"}"#,
            "unknown variant `Foo`, expected one of `Subscribe`, `Unsubscribe`, `Ping` at line 1 column 13",
        );
    }

    #[test]
    fn ignores_unknown_members() {
        assert_eq!(Command::parse(r#"{"type":"Ping","x":[1]}"#), Ok(Command::Ping));
        let subscribe = Command::Subscribe { request_id: "r1".into(), topic: String::new() };
        assert_eq!(Command::parse(r#"{"topic":"","x":1,"request_id":"r1","type":"Subscribe"}"#), Ok(subscribe));
    }

    #[test]
    fn sends_keys_in_alphabetical_order() {
        let text = |frame: Bytes| String::from_utf8(frame[2..].to_vec()).unwrap();
        assert_eq!(
            text(response_frame("r\"1", true, "a\nb")),
            r#"{"request_id":"r\"1","subscribed":true,"topic":"a\nb","type":"response"}"#
        );
        let channel = ChannelName::from_topic("a\nb").unwrap();
        assert_eq!(
            text(event_frame(&channel, r#"{"b": 1.50}"#)),
            r#"{"payload":{"b": 1.50},"topic":"a\nb","type":"event"}"#
        );
    }
}
