//! Messages between nodes about room peers whose client is on another node.

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

/// A peer whose messages cannot be delivered for this long is lost.
pub const PEER_LOST_TIMEOUT: Duration = Duration::from_secs(10);

/// Memory of a queued client frame besides its data, so that empty frames count too.
const FRAME_OVERHEAD_BYTES: usize = 64;

/// Pause before a failed request is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Pause before a node that reported backpressure is asked again.
const BACKPRESSURE_PAUSE: Duration = Duration::from_millis(30);

/// A node reports backpressure while more than this waits for one peer.
pub const BACKPRESSURE_BYTES: usize = 256 * 1024;

/// The room that a client joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoomTarget {
    Channel(RoomId),
    Relay(String),
    /// The credential is in the first text. Without an id, the short code names the room.
    Native(Option<RoomId>),
}

/// A request to another node about a forwarded peer: a client of one node that is in a room of another.
///
/// Frames of one direction are sent in batches, numbered from 1. A repeated number is acknowledged and not applied
/// again. The serde names are those of every version that may share a Redis.
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
    /// The payload of the client's Close frame.
    Close(Base64Bytes),
    /// The connection ended, with this close code.
    #[serde(rename = "Gone")]
    Disconnected(u16),
}

impl ClientFrame {
    /// Bytes of memory.
    pub fn size(&self) -> usize {
        FRAME_OVERHEAD_BYTES
            + match self {
                Self::Text(text) => text.len(),
                Self::Binary(Base64Bytes(bytes)) | Self::Close(Base64Bytes(bytes)) => bytes.len(),
                Self::Disconnected(_) => 0,
            }
    }
}

/// Bytes, as base64 in JSON.
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
    /// The batch was applied, now or before. Under backpressure the sender waits and repeats it.
    #[serde(rename = "Taken")]
    Ack {
        #[serde(rename = "is_full")]
        backpressure: bool,
    },
    #[serde(rename = "Unknown")]
    UnknownPeer,
    /// The named peers that the responding node does not know.
    #[serde(rename = "Held")]
    KeptAlive { unknown: Vec<u64> },
}

/// The other node is unreachable or does not know the peer.
#[derive(Debug)]
pub struct PeerLost;

pub async fn request(bus: &dyn NodeBus, node: &str, request: &Request) -> Result<Response, Refusal> {
    let request = serde_json::to_vec(request).map_err(|_| Refusal::from(ErrorCode::Internal))?;
    let response = bus.request(node, Topic::Rooms, &request).await?;
    serde_json::from_slice(&response).map_err(|_| ErrorCode::EngineUnavailable.into())
}

/// Repeats a message until the other node acknowledged it and reports no backpressure.
pub async fn send_reliably(bus: &dyn NodeBus, node: &str, mut message: Request) -> Result<(), PeerLost> {
    let mut last_answer = Instant::now();
    while last_answer.elapsed() < PEER_LOST_TIMEOUT {
        match request(bus, node, &message).await {
            Ok(Response::Ack { backpressure: false }) => return Ok(()),
            Ok(Response::Ack { backpressure: true }) => {
                message.clear_frames();
                last_answer = Instant::now();
                sleep(BACKPRESSURE_PAUSE).await;
            }
            Ok(Response::UnknownPeer | Response::KeptAlive { .. }) => return Err(PeerLost),
            Err(_) => sleep(RETRY_PAUSE).await,
        }
    }
    Err(PeerLost)
}

impl Request {
    /// The batch was applied; its repetition only polls for the end of the backpressure.
    fn clear_frames(&mut self) {
        match self {
            Self::ClientFrames { frames, .. } => frames.clear(),
            Self::ServerFrames { frames, .. } => frames.0.clear(),
            Self::Join { .. } | Self::KeepAlive { .. } => {}
        }
    }
}
