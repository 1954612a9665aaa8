//! Rooms: their ids, what peers learn of a sender, and the frames of our own protocol (subprotocol
//! `lastmile.pair.v1`).
//!
//! Every frame to a client is an object that the gateway writes; what a peer says is a value inside of one, so no
//! peer can forge a frame.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::command::{Text, Unreadable, present};
use crate::protocol::publication::{MAX_JSON_DEPTH, check_depth, push_json_string};
use crate::protocol::{ErrorCode, Refusal};

/// Names a room. Not a secret where a join secret stands beside it, and hard to guess where none does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoomId([u8; Self::BYTES]);

impl RoomId {
    pub const BYTES: usize = 16;

    /// The canonical text only.
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
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not the id of a room"))
    }
}

/// What peers learn of who sends; what is not known is left out. In the order of the older system.
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

/// One JSON text frame of a client. Members that a `type` does not know are ignored.
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
    /// The newest `seq` that the client has seen.
    #[serde(default)]
    pub seen: Option<u64>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub data: Option<&'a RawValue>,
}

/// Longest `id` of a client, in bytes: it is repeated to its peers.
const MAX_ID_BYTES: usize = 128;

impl<'a> RoomCommand<'a> {
    pub fn parse(text: &'a str) -> Result<Self, Unreadable> {
        let malformed = |detail: String| Unreadable::Refused(Refusal::new(ErrorCode::Malformed, detail));
        check_depth(text, MAX_JSON_DEPTH + 1).map_err(Unreadable::Refused)?;
        let command: Self = serde_json::from_str(text).map_err(|error| match error.classify() {
            // The words of the error could repeat a secret.
            serde_json::error::Category::Data => malformed("not a command".into()),
            _ => Unreadable::NotJson,
        })?;
        if command.id().is_some_and(|id| id.len() > MAX_ID_BYTES) {
            return Err(malformed("`id` has at most 128 bytes".into()));
        }
        Ok(command)
    }

    pub fn id(&self) -> Option<&str> {
        self.id.as_ref().map(|id| id.0.as_ref())
    }
}

/// One JSON text frame to a client, beside [`message`].
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RoomServerFrame<'a> {
    /// The room that the client asked for.
    Opened {
        room: &'a str,
        link: &'a str,
        /// Lets in whoever shows it. A secret.
        join_secret: &'a str,
        /// When the room ends, if it does.
        expires: Option<&'a str>,
        /// Lets in one more, for a short time.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        code_secs: Option<u64>,
    },
    /// The client has a seat.
    Joined {
        room: String,
        peer: &'a str,
        /// Gives the seat back after a dropped connection. A secret.
        resume: &'a str,
        /// Only after a resume: whether nothing is missing of what was said meanwhile.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
        /// The others.
        peers: Vec<Present<'a>>,
        /// When the room ends, if it does.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires: Option<&'a str>,
    },
    PeerJoined {
        peer: &'a str,
        /// It was here before, and is back.
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
    Error {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        code: String,
        message: &'a str,
        temporary: bool,
    },
}

/// Another peer of the room.
#[derive(Debug, Serialize)]
pub struct Present<'a> {
    pub peer: &'a str,
    /// Its connection was lost; its seat is kept for a while.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub away: bool,
    pub sender: &'a Sender,
}

/// Why a peer is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerLeft {
    /// It said so.
    Left,
    /// Its connection was lost; it may come back to its seat.
    Away,
    /// It did not come back in time.
    Timeout,
}

impl<'a> RoomServerFrame<'a> {
    pub fn error(id: Option<&'a str>, refusal: &'a Refusal) -> Self {
        Self::Error { id, code: refusal.code.name(), message: &refusal.detail, temporary: refusal.code.is_temporary() }
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers are JSON")
    }
}

/// What a peer said, for the others: `data` is its JSON byte for byte, `sender` a JSON object. `seq` numbers the
/// messages of the room.
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
    fn frames_are_written_as_the_protocol_says() {
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
    fn the_data_of_a_message_keeps_its_bytes() {
        let command = RoomCommand::parse(r#"{"type":"message","id":"1","data": {"b" : 1.50, "a":[]} }"#).unwrap();
        assert_eq!(command.data.unwrap().get(), r#"{"b" : 1.50, "a":[]}"#);
        assert_eq!(RoomCommand::parse("/remote:close").unwrap_err(), Unreadable::NotJson);
        assert!(matches!(RoomCommand::parse(r#"{"type":1}"#), Err(Unreadable::Refused(_))));
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id = RoomId::from([7; 16]);
        assert_eq!(RoomId::parse(&id.to_string()), Some(id));
        for text in ["", "abcd", &format!("{id}=="), &format!("{id}A"), &"A".repeat(1000)] {
            assert_eq!(RoomId::parse(text), None, "{text}");
        }
    }
}
