//! What is published, and where it stands.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::Error;
use crate::json;

/// A place in a channel. Offsets rise by one within an epoch; a new epoch means that history was lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Which history this is.
    pub epoch: String,
    /// Counted from 1; 0 is before the first publication.
    pub offset: u64,
}

/// The place that the gateway gave to something published.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The channel.
    pub channel: String,
    /// Names the publication for good.
    pub message_id: String,
    /// Where it stands.
    pub position: Position,
}

/// One item of a channel.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Publication {
    /// The channel.
    pub channel: String,
    /// Names the publication for good; [`crate::Client::reply`] takes it.
    pub message_id: String,
    /// Where it stands.
    pub position: Position,
    /// When the gateway took it: RFC 3339 with milliseconds.
    pub time: String,
    /// The name of who published it.
    pub publisher: String,
    /// What was published.
    pub payload: Payload,
}

impl Publication {
    /// Reads JSON and text. Bytes, and what does not fit the type, are `invalid`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        match &self.payload {
            Payload::Json(json) => json::read(json.get()),
            Payload::Bytes(_) => Err(Error::new("invalid", "these are bytes, not JSON")),
        }
    }
}

/// What was published.
#[derive(Clone)]
#[non_exhaustive]
pub enum Payload {
    /// The publisher's JSON byte for byte; text is a JSON string.
    Json(Box<RawValue>),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl fmt::Debug for Payload {
    /// How much it is; what it says belongs into no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(json) => write!(f, "Json({} bytes)", json.get().len()),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
        }
    }
}

/// Publications that a listener does not get.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// Where they went.
    pub reason: GapReason,
    /// The last one before, as far as it is known.
    pub after: Position,
}

/// Why publications are lost to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapReason {
    /// The gateway no longer has them.
    HistoryLost,
    /// The gateway left them out for a slow reader.
    Skipped,
}
