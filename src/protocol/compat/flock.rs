//! The flock dialect: JSON text frames between a flight and its clients.
//!
//! Its clients see the texts of `serde_json`'s errors in Close frames, so the names and the order of the variants
//! below are part of the wire format, and so is the order of the keys of what is sent.

use bytes::Bytes;
use serde::Deserialize;

use crate::protocol::publication::push_json_string;
use crate::protocol::{ChannelName, websocket};

/// Client to server. Members that are not listed are ignored.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type")]
pub enum Command {
    Subscribe { request_id: String, topic: String },
    Unsubscribe { request_id: String, topic: String },
    Ping,
}

impl Command {
    /// The error is what the client is told.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}

/// The answer to a command: whether the client is subscribed to the topic now.
pub fn response_frame(request_id: &str, subscribed: bool, topic: &str) -> Bytes {
    let mut json = String::with_capacity(64 + request_id.len() + topic.len());
    json.push_str(r#"{"request_id":"#);
    push_json_string(&mut json, request_id);
    json.push_str(if subscribed { r#","subscribed":true,"topic":"# } else { r#","subscribed":false,"topic":"# });
    push_json_string(&mut json, topic);
    json.push_str(r#","type":"response"}"#);
    websocket::text_frame(json.as_bytes())
}

/// A publication; `data` is JSON text.
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
    fn mistakes_are_told_in_the_words_of_the_older_system() {
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
    fn members_that_nobody_asked_for_are_ignored() {
        assert_eq!(Command::parse(r#"{"type":"Ping","x":[1]}"#), Ok(Command::Ping));
        let subscribe = Command::Subscribe { request_id: "r1".into(), topic: String::new() };
        assert_eq!(Command::parse(r#"{"topic":"","x":1,"request_id":"r1","type":"Subscribe"}"#), Ok(subscribe));
    }

    #[test]
    fn keys_are_sent_in_the_order_of_the_alphabet() {
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
