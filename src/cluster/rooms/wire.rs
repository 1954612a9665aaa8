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
use crate::protocol::{ErrorCode, Refusal};

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

/// A request to another node about a forwarded peer: a client of one node that is in a room of another. Frames of one direction go in
/// batches, numbered from 1; a repeated number is acknowledged and not applied again. The serde names are those of every version
/// that may share a Redis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// To the room's node: a client joins.
    #[serde(rename = "Enter")]
    Join {
        #[serde(rename = "strand")]
        peer: u64,
        #[serde(rename = "wanted")]
        target: RoomTarget,
        sender: Sender,
        address: Option<IpAddr>,
    },
    /// To the room's node: frames that the client sent.
    #[serde(rename = "Say")]
    ClientFrames {
        #[serde(rename = "strand")]
        peer: u64,
        number: u64,
        #[serde(rename = "said")]
        frames: Vec<ClientFrame>,
    },
    /// To the client's node: encoded frames for the client, and the close code that ends its connection after them.
    #[serde(rename = "Hear")]
    ServerFrames {
        #[serde(rename = "strand")]
        peer: u64,
        number: u64,
        frames: Base64Bytes,
        close: Option<u16>,
    },
    /// To the room's node: ids of the forwarded peers that are still connected.
    #[serde(rename = "Hold")]
    KeepAlive {
        #[serde(rename = "strands")]
        peers: Vec<u64>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClientFrame {
    Text(String),
    Binary(Base64Bytes),
    /// Its Close frame's payload.
    Close(Base64Bytes),
    /// The connection ended, with this close code.
    #[serde(rename = "Gone")]
    Disconnected(u16),
}

impl ClientFrame {
    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        FRAME_OVERHEAD_BYTES
            + match self {
                Self::Text(text) => text.len(),
                Self::Binary(Base64Bytes(bytes)) | Self::Close(Base64Bytes(bytes)) => bytes.len(),
                Self::Disconnected(_) => 0,
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
    /// The batch was applied, now or before. With backpressure, the sender waits and repeats it.
    #[serde(rename = "Taken")]
    Ack {
        #[serde(rename = "is_full")]
        backpressure: bool,
    },
    #[serde(rename = "Unknown")]
    UnknownPeer,
    /// The named peers that this node does not know.
    #[serde(rename = "Held")]
    KeptAlive { unknown: Vec<u64> },
}

/// The strand is of no use any more.
#[derive(Debug)]
pub struct PeerLost;

pub async fn request(bus: &dyn NodeBus, node: &str, asked: &Request) -> Result<Response, Refusal> {
    let asked = serde_json::to_vec(asked).map_err(|_| Refusal::from(ErrorCode::Internal))?;
    let answer = bus.request(node, Topic::Rooms, &asked).await?;
    serde_json::from_slice(&answer).map_err(|_| ErrorCode::EngineUnavailable.into())
}

/// Asks until the other side has taken it and takes more.
pub async fn send_reliably(bus: &dyn NodeBus, node: &str, mut asked: Request) -> Result<(), PeerLost> {
    let mut since = Instant::now();
    while since.elapsed() < PEER_LOST_TIMEOUT {
        match request(bus, node, &asked).await {
            Ok(Response::Ack { backpressure: false }) => return Ok(()),
            Ok(Response::Ack { backpressure: true }) => {
                asked.empty();
                since = Instant::now();
                sleep(BACKPRESSURE_PAUSE).await;
            }
            Ok(Response::UnknownPeer | Response::KeptAlive { .. }) => return Err(PeerLost),
            Err(_) => sleep(RETRY_PAUSE).await,
        }
    }
    Err(PeerLost)
}

impl Request {
    /// It was taken, and is only repeated to hear whether there is room for more.
    fn empty(&mut self) {
        match self {
            Self::ClientFrames { frames, .. } => frames.clear(),
            Self::ServerFrames { frames, .. } => frames.0.clear(),
            Self::Join { .. } | Self::KeepAlive { .. } => {}
        }
    }
}
