//! The tslm protocol: JSON text frames of externally tagged enums.
//!
//! Frames to clients contain `Debug` texts of the enums and error texts of `serde_json`. Names, order of variants and
//! derives are therefore part of the wire format.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::protocol::json::push_json_string;
use crate::protocol::payload::DataKind;
use crate::protocol::{ChannelName, websocket};

/// Client to server.
#[derive(Debug, Deserialize)]
pub enum Command {
    CreateChannel(String),
    Subscribe(String),
    NotifyChannel(String, Content),
}

/// The data of a publication.
#[derive(Debug, Deserialize)]
pub enum Content {
    Text(String),
    Json(Value),
}

/// Server to client, other than [`message_frame`].
#[derive(Debug, Serialize)]
pub enum ServerFrame {
    Success(String),
    Error(String),
}

impl Command {
    /// The error is the frame to the client.
    pub fn parse(text: &str) -> Result<Self, ServerFrame> {
        serde_json::from_str(text).map_err(|error| ServerFrame::Error(format!("Invalid message format: {error}")))
    }

    /// The answer to a successful command.
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

/// The frame of a publication. `data` is JSON text of the given kind.
pub fn message_frame(channel: &ChannelName, kind: DataKind, data: &str) -> Bytes {
    let mut json = String::with_capacity(40 + channel.as_str().len() + data.len());
    json.push_str(r#"{"ChannelMessage":["#);
    push_json_string(&mut json, channel.as_str());
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
    fn success_contains_debug_text() {
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
    fn errors_are_serde_texts() {
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
