//! Rooms over several nodes: each room has one owner node, and other nodes forward their clients' frames to it.
//!
//! All rules of a room stay under its lock on the owner node. A client of another node keeps its socket there:
//! a [`RoomForwarder`] sends its frames over the node bus to the owner, where a remote peer takes the seat.
//!
//! The bus delivers at most once. Batches are therefore numbered, acknowledged, and repeated until acknowledged.
//! Each side pauses while the other reports backpressure. Both give up a peer after seconds without an answer, and its
//! client is closed with a reason that lets it reconnect.

pub mod address_quota;
pub mod caller;
pub mod directory;
pub mod forwarder;
pub mod remote_peer;
pub mod wire;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use self::address_quota::AddressQuota;
pub use self::address_quota::Reservation;
pub use self::caller::Caller;
use self::directory::DIRECTORY_REFRESH_INTERVAL;
pub use self::directory::RoomDirectory;
pub use self::forwarder::RoomForwarder;
use self::forwarder::{ForwardedPeers, send_keep_alives};
use self::remote_peer::RemotePeers;
pub use self::remote_peer::{NewPeerHandler, RemotePeerContext};
pub use self::wire::{Base64Bytes, ClientFrame, RoomTarget};
use self::wire::{Request, Response};
use crate::broker::engine::node_bus::{NodeMessage, Topic};
use crate::broker::room::{RoomLimits, Rooms};
use crate::broker::{Engine, NodeBus};
use crate::ops::log::folded;
use crate::protocol::Refusal;

/// How often expired remote peers are removed and the address quota is reported.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Owners of rooms, rooms per address, and the forwarded peers of this node.
pub struct ClusterRooms {
    engine: Arc<dyn Engine>,
    bus: Arc<dyn NodeBus>,
    rooms: Rooms,
    pub directory: RoomDirectory,
    address_quota: AddressQuota,
    pub forwarded: Arc<ForwardedPeers>,
}

impl ClusterRooms {
    /// `None` if the engine connects no nodes. Registers its metrics with the current recorder.
    pub fn new(engine: &Arc<dyn Engine>, rooms: &Rooms, limits: &RoomLimits) -> Option<Arc<Self>> {
        let bus = engine.node_bus()?;
        Some(Arc::new(Self {
            directory: RoomDirectory::new(engine.clone(), bus.node().to_owned()),
            address_quota: AddressQuota::new(limits),
            forwarded: Arc::new(ForwardedPeers::new(bus.clone())),
            engine: engine.clone(),
            rooms: rooms.clone(),
            bus,
        }))
    }

    /// Reserves one room of an address on all nodes together; to be held until the room is open.
    pub async fn reserve(&self, address: Option<IpAddr>) -> Result<Option<Reservation>, Refusal> {
        self.address_quota.reserve(self.engine.shared_store(), &self.rooms, address).await
    }

    /// Runs until it is dropped.
    pub async fn run(self: Arc<Self>, context: RemotePeerContext) {
        let (cluster, runtime) = (self.clone(), tokio::runtime::Handle::current());
        self.rooms.on_deleted(move |key| {
            let (cluster, key) = (cluster.clone(), key.clone());
            runtime.spawn(async move { cluster.directory.release(&cluster.rooms, &key).await });
        });
        let remote = RemotePeers::new(self.bus.clone(), context);
        let mut messages = self.bus.subscribe(Topic::Rooms);
        let read_messages = async {
            while let Some(message) = messages.recv().await {
                self.on_message(&remote, message);
            }
        };
        let refresh_directory = async {
            loop {
                tokio::time::sleep(DIRECTORY_REFRESH_INTERVAL).await;
                self.directory.renew(&self.rooms).await;
            }
        };
        let refresh_quota = async {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                self.address_quota.refresh(self.engine.shared_store(), &self.rooms).await;
            }
        };
        let sweep = async {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                remote.sweep();
            }
        };
        tokio::join!(read_messages, refresh_directory, refresh_quota, sweep, send_keep_alives(&self.forwarded));
    }

    /// Synchronous, so that messages are applied in their order.
    fn on_message(&self, remote: &RemotePeers, message: NodeMessage) {
        let response = match serde_json::from_slice(&message.bytes) {
            Ok(Request::Join { peer, target, sender, address }) => {
                let caller = Caller { sender: Arc::new(sender), address, is_remote: true };
                remote.join(&message.from, peer, target, caller);
                Response::Ack { backpressure: false }
            }
            Ok(Request::ClientFrames { peer, number, frames }) => {
                remote.on_client_frames(&message.from, peer, number, frames)
            }
            Ok(Request::ServerFrames { peer, number, frames, close }) => {
                self.forwarded.on_server_frames(&message.from, peer, number, frames.0, close)
            }
            Ok(Request::KeepAlive { peers }) => {
                Response::KeptAlive { unknown: remote.keep_alive(&message.from, peers) }
            }
            Err(error) => {
                folded!(WARN, message.from, "cannot decode message from node", node = message.from, %error);
                return;
            }
        };
        let Ok(response) = serde_json::to_vec(&response) else { return };
        // A lost response makes the sender repeat its request.
        tokio::spawn(self.bus.respond(message, &response));
    }
}
