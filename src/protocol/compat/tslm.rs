//! The TSLM last-mile dialect: JSON text frames of externally tagged enums.
//!
//! Its clients see the texts of the enums' `Debug` and of `serde_json`'s errors, so the names, the order of the
//! variants and the derives below are part of the wire format.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::protocol::publication::DataKind;
use crate::protocol::{ChannelName, publication, websocket};

/// Client to server.
#[derive(Debug, Deserialize)]
pub enum Command {
    CreateChannel(String),
    Subscribe(String),
    NotifyChannel(String, Content),
}

/// What is published.
#[derive(Debug, Deserialize)]
pub enum Content {
    Text(String),
    Json(Value),
}

/// Server to client, beside [`message_frame`].
#[derive(Debug, Serialize)]
pub enum ServerFrame {
    Success(String),
    Error(String),
}

impl Command {
    /// The error is what the client is told.
    pub fn parse(text: &str) -> Result<Self, ServerFrame> {
        serde_json::from_str(text).map_err(|error| ServerFrame::Error(format!("Invalid message format: {error}")))
    }

    /// The answer to a command that was carried out.
    pub fn success(&self) -> ServerFrame {
        ServerFrame::Success(format!("Command executed: {self:?}"))
    }
}

impl ServerFrame {
    pub fn frame(&self) -> Bytes {
        let json = serde_json::to_vec(self).expect("strings are JSON");
        websocket::text_frame(&json)
    }
}

/// A publication for subscribers of this dialect; `data` is JSON text of the given kind.
pub fn message_frame(channel: &ChannelName, kind: DataKind, data: &str) -> Bytes {
    let mut json = String::with_capacity(40 + channel.as_str().len() + data.len());
    json.push_str(r#"{"ChannelMessage":["#);
    publication::push_json_string(&mut json, channel.as_str());
    json.push_str(match kind {
        DataKind::Json => r#",{"Json":"#,
        DataKind::Text | DataKind::Base64 => r#",{"Text":"#,
    });
    json.push_str(data);
    json.push_str("}]}");
    websocket::text_frame(json.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_success(text: &str, expected: &str) {
        let frame = Command::parse(text).unwrap().success();
        assert_eq!(serde_json::to_string(&frame).unwrap(), expected);
    }

    #[test]
    fn success_repeats_the_command_as_the_older_system_wrote_it() {
        check_success(r#"{"CreateChannel":"ch"}"#, r#"{"Success":"Command executed: CreateChannel(\"ch\")"}"#);
        check_success(
            r#"{"NotifyChannel":["ch",{"Json":{"b":1,"a":[true,null,1.5]}}]}"#,
            r#"{"Success":"Command executed: NotifyChannel(\"ch\", Json(Object {\"a\": Array [Bool(true), Null, Number(1.5)], \"b\": Number(1)}))"}"#,
        );
        check_success(
            r#"{"NotifyChannel":["ch",{"Text":"Hello, \"World\" \n é"}]}"#,
            r#"{"Success":"Command executed: NotifyChannel(\"ch\", Text(\"Hello, \\\"World\\\" \\n é\"))"}"#,
        );
    }

    #[test]
    fn mistakes_are_answered_in_the_words_of_the_older_system() {
        let check = |text: &str, expected: &str| match Command::parse(text) {
            Err(ServerFrame::Error(error)) => assert_eq!(error, format!("Invalid message format: {expected}")),
            other => panic!("{text}: {other:?}"),
        };
        check("x", "expected value at line 1 column 1");
        check("", "EOF while parsing a value at line 1 column 0");
        check(
            r#"{"Foo":1}"#,
            "unknown variant `Foo`, expected one of `CreateChannel`, `Subscribe`, `NotifyChannel` at line 1 column 6",
        );
        check(r#"{"Subscribe":1}"#, "invalid type: integer `1`, expected a string at line 1 column 14");
        check(r#"{"Subscribe":"ch","x":1}"#, "expected value at line 1 column 17");
    }
}
