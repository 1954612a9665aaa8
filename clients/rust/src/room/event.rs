//! Events of a room, parsed from the gateway's frames.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Error, sanitized};

/// An event of a room.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RoomEvent {
    /// The room was opened; [`RoomEvent::Joined`] follows.
    Opened {
        /// Id of the room.
        room: String,
        /// Secret that lets other peers join by id.
        join_secret: String,
        /// Short code, if one was requested.
        code: Option<String>,
        /// Lifetime of the code in seconds.
        code_secs: Option<u64>,
    },
    /// The seat is taken: at the start and after each reconnect.
    Joined {
        /// Own id in the room.
        peer: String,
        /// The other peers.
        peers: Vec<RoomPeer>,
        /// After a reconnect, whether all messages of the meantime follow.
        recovered: Option<bool>,
    },
    /// Another peer joined or came back.
    PeerJoined(RoomPeer),
    /// Another peer lost its connection (`away`), left (`left`) or did not come back (`timeout`).
    PeerLeft {
        /// Id of the peer.
        peer: String,
        /// `away`, `left` or `timeout`.
        reason: String,
    },
    /// A message of another peer.
    Message(RoomMessage),
    /// The gateway refused a message.
    Refused(Error),
    /// The connection was lost with this error; the seat is being resumed.
    Reconnecting(Error),
}

/// Another peer of the room.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct RoomPeer {
    /// Id of the peer.
    pub peer: String,
    /// Its connection was lost and its seat is kept.
    #[serde(default)]
    pub away: bool,
    /// Metadata that the gateway adds: `remote`, `ua`, `city`, `region`, `country`.
    #[serde(default)]
    pub sender: Value,
}

/// A message of another peer.
#[derive(Clone)]
#[non_exhaustive]
pub struct RoomMessage {
    /// Number of the message in its room.
    pub seq: u64,
    /// Id of the sender.
    pub from: String,
    /// The sender's JSON, byte for byte.
    pub data: Box<RawValue>,
    /// Metadata of the sender, added by the gateway.
    pub sender: Value,
}

impl std::fmt::Debug for RoomMessage {
    /// Shows the size only: payloads do not belong in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RoomMessage({} from {}, {} bytes)", self.seq, self.from, self.data.get().len())
    }
}

/// A frame of the gateway to a peer. Its members depend on `type`; unknown members are ignored.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct RoomFrame {
    pub r#type: String,
    pub room: String,
    join_secret: String,
    /// A short code in `opened`, an error code in `error`.
    code: Option<String>,
    code_secs: Option<u64>,
    peer: String,
    pub resume: String,
    peers: Vec<RoomPeer>,
    recovered: Option<bool>,
    reason: String,
    pub seq: u64,
    from: String,
    data: Option<Box<RawValue>>,
    sender: Value,
    message: String,
    temporary: bool,
}

impl RoomFrame {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text).map_err(|_| Error::unexpected())
    }

    /// The event for the caller, if the frame is one.
    pub(super) fn into_event(self) -> Option<RoomEvent> {
        let Self { peer, sender, code, .. } = self;
        Some(match self.r#type.as_str() {
            "opened" => {
                let Self { room, join_secret, code_secs, .. } = self;
                RoomEvent::Opened { room, join_secret, code, code_secs }
            }
            "joined" => RoomEvent::Joined { peer, peers: self.peers, recovered: self.recovered },
            "peer_joined" => RoomEvent::PeerJoined(RoomPeer { peer, away: false, sender }),
            "peer_left" => RoomEvent::PeerLeft { peer, reason: self.reason },
            "message" => {
                // Serde reads `null` as `None`.
                let data = self.data.unwrap_or_else(|| RawValue::NULL.to_owned());
                RoomEvent::Message(RoomMessage { seq: self.seq, from: self.from, data, sender })
            }
            "error" => {
                let error = Error::new(sanitized(&code.unwrap_or_default()), sanitized(&self.message));
                RoomEvent::Refused(Error { temporary: self.temporary, ..error })
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Option<RoomEvent> {
        RoomFrame::parse(text).unwrap().into_event()
    }

    #[test]
    fn parses_frames_of_the_protocol() {
        let text = r#"{"type":"joined","room":"r","peer":"p2","resume":"s","recovered":true,"peers":[{"peer":"p1","away":true,"sender":{}}]}"#;
        let Some(RoomEvent::Joined { peer, peers, recovered: Some(true) }) = event(text) else { panic!("{text}") };
        assert_eq!((&*peer, &*peers[0].peer, peers[0].away), ("p2", "p1", true));
        let text = r#"{"type":"message","seq":8,"from":"p2","data":{"a":  1},"sender":{"remote":"192.0.2.8"}}"#;
        let Some(RoomEvent::Message(message)) = event(text) else { panic!("{text}") };
        assert_eq!((message.seq, message.data.get()), (8, r#"{"a":  1}"#));
        let text = r#"{"type":"error","code":"peer_absent","message":"no other peer","temporary":true}"#;
        assert!(
            matches!(event(text), Some(RoomEvent::Refused(error)) if error.code == "peer_absent" && error.temporary)
        );
        assert!(event(r#"{"type":"pong"}"#).is_none());
        assert_eq!(RoomFrame::parse("x").err().unwrap().code, "unexpected");
    }
}
