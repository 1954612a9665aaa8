//! What nodes say to each other about peers whose room is on another node.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::{Instant, sleep};

use crate::broker::NodeBus;
use crate::broker::engine::node_bus::Topic;
use crate::protocol::frame::room_frames::{RoomId, Sender};
use crate::protocol::{Code, Refusal};

/// What cannot be delivered for so long is given up, with the strand that it belongs to.
pub const PEER_LOST_TIMEOUT: Duration = Duration::from_secs(10);

/// What a word of a client takes besides its data, of which it may have none.
const FRAME_OVERHEAD_BYTES: usize = 64;

/// Between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Between two questions whether the other side takes more.
const BACKPRESSURE_PAUSE: Duration = Duration::from_millis(30);

/// The room that a client wants to enter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoomTarget {
    Channel(RoomId),
    Relay(String),
    /// What opens it is in the first text; a code alone names its room.
    Native(Option<RoomId>),
}

/// What one node asks another. A strand is a connection of a client's node that is a peer of a room elsewhere; its batches are
/// numbered in each direction, beginning with 1, and one that was taken is not taken again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// To the room's node: a client wants to enter.
    Enter { strand: u64, wanted: RoomTarget, sender: Sender, address: Option<IpAddr> },
    /// To the room's node: what the client says.
    Say { strand: u64, number: u64, said: Vec<ClientFrame> },
    /// To the client's node: frames for the client, one behind the other, and the code with which it is closed then.
    Hear { strand: u64, number: u64, frames: Base64Bytes, close: Option<u16> },
    /// To the room's node: the strands that there are, of those that led there.
    Hold { strands: Vec<u64> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClientFrame {
    Text(String),
    Binary(Base64Bytes),
    /// Its Close frame's payload.
    Close(Base64Bytes),
    /// The connection is over, with this code.
    Gone(u16),
}

impl ClientFrame {
    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        FRAME_OVERHEAD_BYTES
            + match self {
                Self::Text(text) => text.len(),
                Self::Binary(Base64Bytes(bytes)) | Self::Close(Base64Bytes(bytes)) => bytes.len(),
                Self::Gone(_) => 0,
            }
    }
}

/// Bytes, in base64 where there are only texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Base64Bytes(pub Vec<u8>);

impl Serialize for Base64Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&base64::display::Base64Display::new(&self.0, &BASE64))
    }
}

impl<'de> Deserialize<'de> for Base64Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text).map(Self).map_err(|_| serde::de::Error::custom("not base64"))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// It was taken, now or before. Until it is not full, nothing more may be sent.
    Taken { is_full: bool },
    /// There is no such strand (any more).
    Unknown,
    /// Of the strands that were named, those that are not known.
    Held { unknown: Vec<u64> },
}

/// The strand is of no use any more.
#[derive(Debug)]
pub struct PeerLost;

pub async fn ask(bus: &dyn NodeBus, node: &str, asked: &Request) -> Result<Response, Refusal> {
    let asked = serde_json::to_vec(asked).map_err(|_| Refusal::from(Code::Internal))?;
    let answer = bus.ask(node, Topic::Rooms, &asked).await?;
    serde_json::from_slice(&answer).map_err(|_| Code::EngineUnavailable.into())
}

/// Asks until the other side has taken it and takes more.
pub async fn pass(bus: &dyn NodeBus, node: &str, mut asked: Request) -> Result<(), PeerLost> {
    let mut since = Instant::now();
    while since.elapsed() < PEER_LOST_TIMEOUT {
        match ask(bus, node, &asked).await {
            Ok(Response::Taken { is_full: false }) => return Ok(()),
            Ok(Response::Taken { is_full: true }) => {
                asked.empty();
                since = Instant::now();
                sleep(BACKPRESSURE_PAUSE).await;
            }
            Ok(Response::Unknown | Response::Held { .. }) => return Err(PeerLost),
            Err(_) => sleep(RETRY_PAUSE).await,
        }
    }
    Err(PeerLost)
}

impl Request {
    /// It was taken, and is only repeated to hear whether there is room for more.
    fn empty(&mut self) {
        match self {
            Self::Say { said, .. } => said.clear(),
            Self::Hear { frames, .. } => frames.0.clear(),
            Self::Enter { .. } | Self::Hold { .. } => {}
        }
    }
}
