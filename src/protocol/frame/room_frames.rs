//! Frames of native rooms (subprotocol `lastmile.pair.v1`), room ids and sender details.
//!
//! The gateway writes every frame to a client. A peer's data is a member of such a frame, so no peer can forge one.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::command::{Unreadable, parse_command};
use super::error_code::{ErrorFrame, Refusal};
use crate::protocol::json::{Text, present, push_json_string};

/// Id of a room. Native rooms have a join secret besides; in older protocols the id alone admits, so it is random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoomId([u8; Self::BYTES]);

impl RoomId {
    pub const BYTES: usize = 16;

    /// Accepts the canonical text only.
    pub fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

impl From<[u8; Self::BYTES]> for RoomId {
    fn from(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl Serialize for RoomId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RoomId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a room id"))
    }
}

/// Metadata of a sender, as peers receive it. Unknown members are left out. The order is part of the channelserver format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ua: Option<String>,
}

impl Sender {
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings are JSON")
    }
}

/// A text frame of a client. Unknown members are ignored.
#[derive(Debug, Deserialize)]
pub struct RoomCommand<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(default)]
    pub max_seats: Option<usize>,
    #[serde(borrow, default)]
    pub token: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub secret: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub code: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub resume: Option<Text<'a>>,
    /// The newest `seq` that the client received.
    #[serde(default)]
    pub seen: Option<u64>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub data: Option<&'a RawValue>,
}

impl<'a> RoomCommand<'a> {
    pub fn parse(text: &'a str) -> Result<Self, Unreadable> {
        // The text of the error could repeat a secret.
        parse_command(text, Self::id, |_| "not a command".into())
    }

    pub fn id(&self) -> Option<&str> {
        self.id.as_ref().map(|id| id.0.as_ref())
    }
}

/// A text frame to a client other than [`message`].
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RoomServerFrame<'a> {
    /// The room that the client opened.
    Opened {
        room: &'a str,
        link: &'a str,
        /// Secret that admits any peer.
        join_secret: &'a str,
        /// When the room ends, if it has a lifespan.
        expires: Option<&'a str>,
        /// Short-lived code that admits one peer.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        code_secs: Option<u64>,
    },
    /// The client has joined and holds a seat.
    Joined {
        room: String,
        peer: &'a str,
        /// Secret that resumes the seat after a lost connection.
        resume: &'a str,
        /// Only after a resume: whether the client received every message sent in between.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
        /// The other peers.
        peers: Vec<Present<'a>>,
        /// When the room ends, if it has a lifespan.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires: Option<&'a str>,
    },
    PeerJoined {
        peer: &'a str,
        /// Whether the peer resumed its seat.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        resumed: bool,
        sender: &'a Sender,
    },
    PeerLeft {
        peer: &'a str,
        reason: PeerLeft,
    },
    Pong {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    },
    Error(ErrorFrame<'a>),
}

/// Another peer of the room.
#[derive(Debug, Serialize)]
pub struct Present<'a> {
    pub peer: &'a str,
    /// Whether its connection is lost. Its seat is held for a while.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub away: bool,
    pub sender: &'a Sender,
}

/// Why a peer left the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerLeft {
    /// It gave up its seat.
    Left,
    /// Its connection is lost; it may resume its seat.
    Away,
    /// It did not resume its seat in time.
    Timeout,
}

impl<'a> RoomServerFrame<'a> {
    pub fn error(id: Option<&'a str>, refusal: &'a Refusal) -> Self {
        Self::Error(ErrorFrame::new(id, refusal))
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers are JSON")
    }
}

/// The `message` frame to the other peers. `data` is the sender's JSON byte for byte, `sender` a JSON object; `seq`
/// numbers the messages of the room.
pub fn message(seq: u64, from: &str, id: Option<&str>, data: &str, sender: &str) -> String {
    let mut json = String::with_capacity(80 + data.len() + sender.len());
    json.push_str(r#"{"type":"message","seq":"#);
    json.push_str(&seq.to_string());
    json.push_str(r#","from":"#);
    push_json_string(&mut json, from);
    if let Some(id) = id {
        json.push_str(r#","id":"#);
        push_json_string(&mut json, id);
    }
    json.push_str(r#","data":"#);
    json.push_str(data);
    json.push_str(r#","sender":"#);
    json.push_str(sender);
    json.push('}');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_room_frames() {
        let sender = Sender { ua: Some("x".into()), ..Sender::default() };
        assert_eq!(
            message(3, "p1", Some("a\""), r#"{"type": "joined"}"#, &sender.to_json()),
            r#"{"type":"message","seq":3,"from":"p1","id":"a\"","data":{"type": "joined"},"sender":{"ua":"x"}}"#
        );
        let left = RoomServerFrame::PeerLeft { peer: "p2", reason: PeerLeft::Away };
        assert_eq!(left.to_json(), r#"{"type":"peer_left","peer":"p2","reason":"away"}"#);
        let back = RoomServerFrame::PeerJoined { peer: "p2", resumed: true, sender: &sender };
        assert_eq!(back.to_json(), r#"{"type":"peer_joined","peer":"p2","resumed":true,"sender":{"ua":"x"}}"#);
    }

    #[test]
    fn message_data_keeps_its_bytes() {
        let command = RoomCommand::parse(r#"{"type":"message","id":"1","data": {"b" : 1.50, "a":[]} }"#).unwrap();
        assert_eq!(command.data.unwrap().get(), r#"{"b" : 1.50, "a":[]}"#);
        assert_eq!(RoomCommand::parse("/remote:close").unwrap_err(), Unreadable::NotJson);
        assert!(matches!(RoomCommand::parse(r#"{"type":1}"#), Err(Unreadable::Refused(_))));
    }

    #[test]
    fn room_id_is_canonical() {
        let id = RoomId::from([7; 16]);
        assert_eq!(RoomId::parse(&id.to_string()), Some(id));
        for text in ["", "abcd", &format!("{id}=="), &format!("{id}A"), &"A".repeat(1000)] {
            assert_eq!(RoomId::parse(text), None, "{text}");
        }
    }
}
