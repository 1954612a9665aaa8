//! Forwards a local connection to the node that owns its room, and that node's frames back to the socket.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::task::AtomicWaker;
use metrics::{Gauge, gauge};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::caller::Caller;
use super::wire::{
    BACKPRESSURE_BYTES, ClientFrame, PEER_LOST_TIMEOUT, PeerLost, Request, Response, RoomTarget, request, send_reliably,
};
use crate::broker::{Connection, NodeBus, Phase};
use crate::protocol::CloseReason;
use crate::protocol::frame::room_frames::Sender;

/// Bytes of one batch.
const BATCH_BYTES: usize = 64 * 1024;

/// The client is not read from while this much of its data waits. Bounds the queue.
const MAX_QUEUED_BYTES: usize = 64 * 1024;

/// How often a node confirms its forwarded peers to the owners of their rooms.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// The connections of this node whose rooms are on other nodes, by connection id.
pub struct ForwardedPeers {
    bus: Arc<dyn NodeBus>,
    peers: Mutex<HashMap<u64, Arc<ForwardedPeer>>>,
    count: Gauge,
}

impl ForwardedPeers {
    /// Registers its metrics with the current recorder.
    pub fn new(bus: Arc<dyn NodeBus>) -> Self {
        Self { bus, peers: Mutex::default(), count: gauge!("lastmile_carried_peers") }
    }

    pub fn is_empty(&self) -> bool {
        self.peers.lock().is_empty()
    }

    /// Applies a batch of the owner node.
    pub fn on_server_frames(
        &self,
        from: &str,
        peer: u64,
        number: u64,
        frames: Vec<u8>,
        close: Option<u16>,
    ) -> Response {
        let peer = self.peers.lock().get(&peer).cloned();
        peer.map_or(Response::UnknownPeer, |peer| peer.on_frames(from, number, frames, close))
    }
}

/// The sending half, owned by the connection's handler.
pub struct RoomForwarder {
    frames: mpsc::UnboundedSender<ClientFrame>,
    queued: Arc<QueuedBytes>,
    connection: Arc<Connection>,
}

#[derive(Default)]
struct QueuedBytes {
    bytes: AtomicUsize,
    task: AtomicWaker,
}

/// One forwarded connection, as its node and the owner node know it.
struct ForwardedPeer {
    node: String,
    /// A client of the channelserver: its socket is cut where the room is unknown.
    cuts_unknown_room: bool,
    connection: Arc<Connection>,
    state: Mutex<ForwardedState>,
}

#[derive(Default)]
struct ForwardedState {
    /// The owner node acknowledged the request to join.
    is_known: bool,
    /// The owner node sent a frame, so the peer is in the room.
    is_admitted: bool,
    /// The number of the newest batch that was applied.
    last_number: u64,
}

impl RoomForwarder {
    /// Joins the room on its owner node, in a task of its own.
    pub fn begin(
        peers: &Arc<ForwardedPeers>,
        node: String,
        target: RoomTarget,
        caller: &Caller,
        connection: Arc<Connection>,
    ) -> Self {
        let Caller { sender, address, .. } = caller;
        let cuts_unknown_room = matches!(target, RoomTarget::Channel(_));
        let join = Request::Join { peer: connection.id, target, sender: Sender::clone(sender), address: *address };
        let peer = ForwardedPeer { node, cuts_unknown_room, connection: connection.clone(), state: Mutex::default() };
        let (forwarder, frames) = Self::new(connection);
        tokio::spawn(run(peers.clone(), Arc::new(peer), join, frames, forwarder.queued.clone()));
        forwarder
    }

    fn new(connection: Arc<Connection>) -> (Self, mpsc::UnboundedReceiver<ClientFrame>) {
        // Bounded by `poll_ready`, without which nothing is read from the client.
        let (frames, receiver) = mpsc::unbounded_channel();
        (Self { frames, queued: Arc::default(), connection }, receiver)
    }

    pub fn forward(&self, frame: ClientFrame) {
        self.queued.bytes.fetch_add(frame.size(), Ordering::Relaxed);
        // Without a receiver the connection was closed.
        let _ = self.frames.send(frame);
    }

    /// Pending while more than [`MAX_QUEUED_BYTES`] wait.
    pub fn poll_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.queued.task.register(cx.waker());
        let is_ready = self.queued.bytes.load(Ordering::Acquire) <= MAX_QUEUED_BYTES || self.frames.is_closed();
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for RoomForwarder {
    fn drop(&mut self) {
        let reason = match self.connection.phase() {
            Phase::Open => CloseReason::Normal,
            Phase::Closing(reason) | Phase::Closed(reason) => reason,
        };
        self.forward(ClientFrame::Disconnected(reason.code()));
    }
}

impl ForwardedPeer {
    fn on_frames(&self, from: &str, number: u64, frames: Vec<u8>, close: Option<u16>) -> Response {
        if from != self.node || self.connection.phase() != Phase::Open {
            return Response::UnknownPeer;
        }
        let mut state = self.state.lock();
        if number == state.last_number + 1 {
            state.last_number = number;
            if !frames.is_empty() {
                if close.is_none() && !std::mem::replace(&mut state.is_admitted, true) {
                    self.connection.set_authenticated(None);
                }
                self.connection.send(&Bytes::from(frames));
            }
            match close.map(|code| CloseReason::of(code).unwrap_or(CloseReason::EngineUnavailable)) {
                Some(reason @ CloseReason::UnknownRoom) if self.cuts_unknown_room => self.connection.cut(reason),
                Some(reason) => self.connection.close(reason),
                None => {}
            }
        } else if number != state.last_number {
            return Response::UnknownPeer;
        }
        Response::Ack { backpressure: close.is_none() && self.connection.waiting_bytes() > BACKPRESSURE_BYTES }
    }

    fn is_known(&self) -> bool {
        self.state.lock().is_known
    }

    /// The owner node is unreachable, or does not know this peer.
    fn disconnect(&self) {
        self.connection.close(CloseReason::EngineUnavailable);
    }
}

/// Runs until the owner node knows that the connection ended, or until that node is lost.
async fn run(
    peers: Arc<ForwardedPeers>,
    peer: Arc<ForwardedPeer>,
    join: Request,
    mut frames: mpsc::UnboundedReceiver<ClientFrame>,
    queued: Arc<QueuedBytes>,
) {
    let id = peer.connection.id;
    peers.peers.lock().insert(id, peer.clone());
    peers.count.increment(1);
    let forwarding = async {
        send_reliably(&*peers.bus, &peer.node, join).await?;
        peer.state.lock().is_known = true;
        let mut number = 0;
        while let Some(first) = frames.recv().await {
            number += 1;
            send_frames(&*peers.bus, &peer, number, first, &mut frames, &queued).await?;
        }
        Ok(())
    };
    if let Err(PeerLost) = forwarding.await {
        peer.disconnect();
    }
    drop(frames);
    queued.task.wake();
    peers.peers.lock().remove(&id);
    peers.count.decrement(1);
}

/// Sends one batch: the first frame and the queued frames behind it.
async fn send_frames(
    bus: &dyn NodeBus,
    peer: &ForwardedPeer,
    number: u64,
    first: ClientFrame,
    queue: &mut mpsc::UnboundedReceiver<ClientFrame>,
    queued: &QueuedBytes,
) -> Result<(), PeerLost> {
    let mut bytes = first.size();
    let mut frames = vec![first];
    while bytes < BATCH_BYTES
        && let Ok(next) = queue.try_recv()
    {
        bytes += next.size();
        frames.push(next);
    }
    send_reliably(bus, &peer.node, Request::ClientFrames { peer: peer.connection.id, number, frames }).await?;
    queued.bytes.fetch_sub(bytes, Ordering::Release);
    queued.task.wake();
    Ok(())
}

/// Confirms the forwarded peers to the owners of their rooms, and disconnects those whose owner does not know them.
pub async fn send_keep_alives(peers: &ForwardedPeers) {
    let mut last_answers: HashMap<String, Instant> = HashMap::new();
    loop {
        let mut nodes: HashMap<String, Vec<Arc<ForwardedPeer>>> = HashMap::new();
        for peer in peers.peers.lock().values().filter(|peer| peer.is_known()) {
            nodes.entry(peer.node.clone()).or_default().push(peer.clone());
        }
        last_answers.retain(|node, _| nodes.contains_key(node));
        let requests = nodes.iter().map(|(node, peers_of_node)| {
            let ids = peers_of_node.iter().map(|peer| peer.connection.id).collect();
            async move { (node, request(&*peers.bus, node, &Request::KeepAlive { peers: ids }).await) }
        });
        for (node, response) in join_all(requests).await {
            let (peers_of_node, now) = (&nodes[node], Instant::now());
            let last_answer = last_answers.entry(node.clone()).or_insert(now);
            match response {
                Ok(Response::KeptAlive { unknown }) => {
                    *last_answer = now;
                    let unknown: HashSet<u64> = unknown.into_iter().collect();
                    let lost = peers_of_node.iter().filter(|peer| unknown.contains(&peer.connection.id));
                    lost.for_each(|peer| peer.disconnect());
                }
                _ if last_answer.elapsed() > PEER_LOST_TIMEOUT => {
                    peers_of_node.iter().for_each(|peer| peer.disconnect());
                }
                _ => {}
            }
        }
        tokio::time::sleep(KEEP_ALIVE_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::broker::BufferedSocket;
    use crate::broker::room::tests::connection_limits;

    #[test]
    fn empty_frames_count_towards_queue_limit() {
        let (forwarder, mut frames) =
            RoomForwarder::new(Arc::new(Connection::new(1, Arc::new(connection_limits()), BufferedSocket)));
        let cx = Context::from_waker(Waker::noop());
        for _ in 0..10_000 {
            if forwarder.poll_ready(&cx).is_ready() {
                forwarder.forward(ClientFrame::Text(String::new()));
            }
        }
        assert!((1..2_000).contains(&frames.len()), "{} frames wait", frames.len());
        frames.close();
        assert!(forwarder.poll_ready(&cx).is_ready(), "without a receiver the connection ends");
    }
}
