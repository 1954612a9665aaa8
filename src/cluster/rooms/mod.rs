//! Rooms with peers on several nodes. A room is on one node, so all its rules stay one step under its lock. A client that is
//! connected to another node keeps its socket there; a strand carries its words over the bus to the room's node, where a
//! guest takes its seat, and back.
//!
//! Words arrive at most once, so each batch is numbered, acknowledged and sent again until it is; each side stops while the
//! other is full. Both sides give up what they cannot reach for some seconds: the client is told to connect again.

pub mod address_quota;
pub mod directory;
pub mod forwarder;
pub mod remote_peer;
pub mod wire;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use metrics::{Gauge, gauge};
use parking_lot::Mutex;

use self::address_quota::{AddressQuota, Reservation};
pub use self::directory::RoomDirectory;
use self::forwarder::ForwardedPeer;
pub use self::forwarder::RoomForwarder;
use self::remote_peer::RemotePeer;
pub use self::wire::{Base64Bytes, ClientFrame, RoomTarget};
use self::wire::{PEER_LOST_TIMEOUT, Request, Response, request};
use crate::broker::engine::node_bus::{NodeMessage, Topic};
use crate::broker::room::RoomLimits;
use crate::broker::{Engine, NodeBus};
use crate::protocol::Refusal;
use crate::transport::rooms::Caller;
use crate::transport::state::AppState;

/// A side that has not dealt with so much takes no more.
const BACKPRESSURE_BYTES: usize = 256 * 1024;

/// How often what is over is looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How often nodes tell each other which peers there are.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// What is told of rooms is remembered so long without being renewed. What a node told that is gone counts no more.
const DIRECTORY_LEASE: Duration = Duration::from_secs(120);

/// How often it is renewed.
const DIRECTORY_REFRESH_INTERVAL: Duration = Duration::from_secs(40);

/// As many at once.
const MAX_CONCURRENT_REQUESTS: usize = 64;

/// What a node knows of other nodes' rooms, and where its own can be found.
pub struct ClusterRooms {
    bus: Arc<dyn NodeBus>,
    pub directory: RoomDirectory,
    address_quota: AddressQuota,
    /// Strands of connections of this node, by connection.
    forwarded: Mutex<HashMap<u64, Arc<ForwardedPeer>>>,
    carried: Gauge,
}

impl ClusterRooms {
    /// `None` where there are no other nodes. Registers its metrics with the current recorder.
    pub fn new(engine: &Arc<dyn Engine>, limits: &RoomLimits) -> Option<Arc<Self>> {
        let bus = engine.node_bus()?;
        let whereabouts = RoomDirectory::new(engine.clone(), bus.node().to_owned());
        let carried = gauge!("lastmile_carried_peers");
        let openers = AddressQuota::new(limits);
        Some(Arc::new(Self {
            bus,
            directory: whereabouts,
            address_quota: openers,
            forwarded: Mutex::default(),
            carried,
        }))
    }

    /// Whether a connection of this node is a peer elsewhere, or was until just now.
    pub fn is_used(&self) -> bool {
        !self.forwarded.lock().is_empty()
    }

    fn forwarded_peer(&self, strand: u64) -> Option<Arc<ForwardedPeer>> {
        self.forwarded.lock().get(&strand).cloned()
    }
}

/// Keeps a place for a room that an address is about to open, where there are other nodes that count with this one.
pub async fn reserve(app: &AppState, address: Option<IpAddr>) -> Result<Option<Reservation>, Refusal> {
    match &app.elsewhere {
        Some(elsewhere) => elsewhere.address_quota.reserve(app.engine.shared_store(), &app.rooms, address).await,
        None => Ok(None),
    }
}

/// Guests of this node by the node they are connected to, and their strand there.
type RemotePeers = HashMap<String, HashMap<u64, RemotePeer>>;

/// Runs until it is dropped; returns at once where there are no other nodes.
pub async fn run(app: Arc<AppState>) {
    let Some(elsewhere) = app.elsewhere.clone() else { return };
    let (rooms, forgetful, runtime) = (app.rooms.clone(), elsewhere.clone(), tokio::runtime::Handle::current());
    app.rooms.on_deleted(move |key| {
        let (rooms, elsewhere, key) = (rooms.clone(), forgetful.clone(), key.clone());
        runtime.spawn(async move { elsewhere.directory.release(&rooms, &key).await });
    });
    let guests = Mutex::new(RemotePeers::new());
    let mut words = elsewhere.bus.subscribe(Topic::Rooms);
    let take_words = async {
        while let Some(word) = words.recv().await {
            on_message(&app, &elsewhere, &guests, word);
        }
    };
    let renew = async {
        loop {
            tokio::time::sleep(DIRECTORY_REFRESH_INTERVAL).await;
            elsewhere.directory.renew(&app.rooms).await;
        }
    };
    let keep = async {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            if let Some(shared) = app.engine.shared_store() {
                elsewhere.address_quota.refresh(shared, &app.rooms).await;
            }
        }
    };
    tokio::join!(take_words, renew, keep, send_keep_alives(&elsewhere), sweep(&guests));
}

/// Answers one word. What it asks for is done at once, so that words are taken in their order.
fn on_message(app: &Arc<AppState>, elsewhere: &Arc<ClusterRooms>, guests: &Mutex<RemotePeers>, word: NodeMessage) {
    let answer = match serde_json::from_slice(&word.bytes) {
        Ok(Request::Join { peer, target, sender, address }) => {
            let caller = Caller { sender: Arc::new(sender), address, is_guest: true };
            let mut guests = guests.lock();
            let of_node = guests.entry(word.from.clone()).or_default();
            of_node.entry(peer).or_insert_with(|| {
                RemotePeer::join(app, elsewhere.bus.clone(), word.from.clone(), peer, target, caller)
            });
            Response::Ack { backpressure: false }
        }
        Ok(Request::ClientFrames { peer, number, frames }) => {
            let guests = guests.lock();
            let guest = guests.get(&word.from).and_then(|of_node| of_node.get(&peer));
            guest.map_or(Response::UnknownPeer, |guest| guest.on_client_frames(number, frames))
        }
        Ok(Request::ServerFrames { peer, number, frames, close }) => match elsewhere.forwarded_peer(peer) {
            Some(line) => line.on_frames(&word.from, number, frames.0, close),
            None => Response::UnknownPeer,
        },
        Ok(Request::KeepAlive { mut peers }) => {
            let (guests, now) = (guests.lock(), Instant::now());
            let of_node = guests.get(&word.from);
            peers.retain(|strand| match of_node.and_then(|of_node| of_node.get(strand)) {
                Some(guest) => {
                    guest.keep_alive(now);
                    false
                }
                None => true,
            });
            Response::KeptAlive { unknown: peers }
        }
        Err(_) => return tracing::warn!(node = word.from, "a word of another node cannot be read"),
    };
    let Ok(answer) = serde_json::to_vec(&answer) else { return };
    let answered = elsewhere.bus.answer(word, &answer);
    // Whoever asked asks again if this is lost.
    tokio::spawn(answered);
}

/// Lets the nodes to which peers lead know that they are there, and cuts those that lead nowhere.
async fn send_keep_alives(elsewhere: &ClusterRooms) {
    let mut reached: HashMap<String, Instant> = HashMap::new();
    loop {
        let mut nodes: HashMap<String, Vec<Arc<ForwardedPeer>>> = HashMap::new();
        for line in elsewhere.forwarded.lock().values().filter(|line| line.is_known()) {
            nodes.entry(line.node.clone()).or_default().push(line.clone());
        }
        reached.retain(|node, _| nodes.contains_key(node));
        let asked = nodes.iter().map(|(node, lines)| {
            let peers = lines.iter().map(|line| line.connection.id).collect();
            async move { (node, request(&*elsewhere.bus, node, &Request::KeepAlive { peers }).await) }
        });
        for (node, answer) in join_all(asked).await {
            let (lines, now) = (&nodes[node], Instant::now());
            let since = reached.entry(node.clone()).or_insert(now);
            match answer {
                Ok(Response::KeptAlive { unknown }) => {
                    *since = now;
                    let unknown: HashSet<u64> = unknown.into_iter().collect();
                    lines
                        .iter()
                        .filter(|line| unknown.contains(&line.connection.id))
                        .for_each(|line| line.disconnect());
                }
                _ if since.elapsed() > PEER_LOST_TIMEOUT => lines.iter().for_each(|line| line.disconnect()),
                _ => {}
            }
        }
        tokio::time::sleep(KEEP_ALIVE_INTERVAL).await;
    }
}

/// Forgets guests that are over.
async fn sweep(guests: &Mutex<RemotePeers>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let now = Instant::now();
        guests.lock().retain(|_, of_node| {
            of_node.retain(|_, guest| !guest.is_expired(now));
            !of_node.is_empty()
        });
    }
}
