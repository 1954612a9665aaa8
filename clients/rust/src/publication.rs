//! Publications, their positions and payloads.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::error::Error;
use crate::json;

/// A position in a channel. Offsets rise by one within an epoch. A new epoch means that the channel's history was lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Identifies the history that `offset` counts in.
    pub epoch: String,
    /// Starts at 1; 0 is the position before the first publication.
    pub offset: u64,
}

/// The gateway's acknowledgement of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The channel.
    pub channel: String,
    /// Unique id of the publication.
    pub message_id: String,
    /// Its position in the channel.
    pub position: Position,
}

/// One publication of a channel.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Publication {
    /// The channel.
    pub channel: String,
    /// Unique id of the publication, for [`crate::Client::reply`].
    pub message_id: String,
    /// Its position in the channel.
    pub position: Position,
    /// Time of acceptance by the gateway: RFC 3339 with milliseconds.
    pub time: String,
    /// Name of the publisher.
    pub publisher: String,
    /// The published data.
    pub payload: Payload,
    pub(crate) frame: FrameText,
}

/// The text of a frame, shared with the buffer that it was received in.
#[derive(Clone, Default)]
pub(crate) struct FrameText(pub Utf8Bytes);

impl Publication {
    /// The gateway's `message` frame, byte for byte.
    pub fn frame(&self) -> &str {
        &self.frame.0
    }

    /// Parses JSON and text. Bytes and values of another type are `invalid`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        match &self.payload {
            Payload::Json(json) => json::read(json.get()),
            Payload::Bytes(_) => Err(Error::new("invalid", "the payload is bytes, not JSON")),
        }
    }
}

/// The published data.
#[derive(Clone)]
#[non_exhaustive]
pub enum Payload {
    /// The publisher's JSON byte for byte; text is a JSON string.
    Json(Box<RawValue>),
    /// A payload of any other content type.
    Bytes(Vec<u8>),
}

impl fmt::Debug for FrameText {
    /// Shows the size only: payloads do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameText({} bytes)", self.0.len())
    }
}

impl fmt::Debug for Payload {
    /// Shows the size only: payloads do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(json) => write!(f, "Json({} bytes)", json.get().len()),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
        }
    }
}

/// Publications that a subscription lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// Cause of the loss.
    pub reason: GapReason,
    /// Last known position before the loss.
    pub after: Position,
}

/// Causes of lost publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapReason {
    /// The gateway's backlog no longer contains them.
    HistoryLost,
    /// The gateway skipped them for a slow subscriber.
    Skipped,
}
