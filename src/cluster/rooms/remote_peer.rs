//! A peer of a room of this node whose client is connected to another node.
//!
//! Its handler is that of a local peer of the same form. Frames to and from the client travel over the node bus
//! instead of a socket.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::caller::Caller;
use super::wire::{
    BACKPRESSURE_BYTES, Base64Bytes, ClientFrame, PEER_LOST_TIMEOUT, Request, Response, RoomTarget, send_reliably,
};
use crate::broker::connection::handler::Handler;
use crate::broker::connection::registry::{Registered, Registry};
use crate::broker::{BufferedSocket, Connection, ConnectionLimits, NodeBus, Phase};
use crate::protocol::CloseReason;

/// Bytes of one batch.
const BATCH_BYTES: usize = 256 * 1024;

/// Makes the handler of a peer that joins a room of this node.
pub type NewPeerHandler = Box<dyn Fn(RoomTarget, Arc<Connection>, Caller) -> Box<dyn Handler> + Send + Sync>;

/// Parts of this node that a remote peer uses.
pub struct RemotePeerContext {
    pub registry: Arc<Registry>,
    /// Limits of a peer's connection. The client's node sends the pings.
    pub limits: Arc<ConnectionLimits>,
    pub new_handler: NewPeerHandler,
}

/// The remote peers in this node's rooms, by the client's node and the connection's id there.
pub struct RemotePeers {
    bus: Arc<dyn NodeBus>,
    context: RemotePeerContext,
    peers: Mutex<HashMap<String, HashMap<u64, RemotePeer>>>,
}

struct RemotePeer {
    peer: Arc<PeerState>,
    task: AbortHandle,
    _registered: Registered,
}

struct PeerState {
    connection: Arc<Connection<BufferedSocket>>,
    incoming: Mutex<Incoming>,
    /// The client disconnected: pending frames for it are dropped.
    disconnected: Notify,
}

struct Incoming {
    /// The number of the newest batch.
    number: u64,
    frames: VecDeque<ClientFrame>,
    bytes: usize,
    /// When the client's node last confirmed the connection.
    last_keep_alive: Instant,
}

/// Frames for the client, and the reason that closes its connection after them.
struct Batch {
    frames: Vec<u8>,
    close: Option<CloseReason>,
}

impl RemotePeers {
    pub fn new(bus: Arc<dyn NodeBus>, context: RemotePeerContext) -> Self {
        let limits = ConnectionLimits { ping: Duration::MAX, pong: Duration::MAX, ..*context.limits };
        Self { bus, context: RemotePeerContext { limits: Arc::new(limits), ..context }, peers: Mutex::default() }
    }

    /// Joins a room, unless this is a repeated request.
    pub fn join(&self, node: &str, peer: u64, target: RoomTarget, caller: Caller) {
        let mut peers = self.peers.lock();
        let peers_of_node = peers.entry(node.to_owned()).or_default();
        peers_of_node.entry(peer).or_insert_with(|| self.new_peer(node.to_owned(), peer, target, caller));
    }

    fn new_peer(&self, node: String, id: u64, target: RoomTarget, caller: Caller) -> RemotePeer {
        let RemotePeerContext { registry, limits, new_handler } = &self.context;
        let connection = Arc::new(Connection::new(registry.new_id(), limits.clone(), BufferedSocket));
        let registered = registry.register_remote_peer(connection.clone());
        let handler = new_handler(target, connection.clone(), caller);
        let incoming = Incoming { number: 0, frames: VecDeque::new(), bytes: 0, last_keep_alive: Instant::now() };
        let peer = Arc::new(PeerState { connection, incoming: Mutex::new(incoming), disconnected: Notify::new() });
        let task = tokio::spawn(run(peer.clone(), handler, self.bus.clone(), node, id)).abort_handle();
        RemotePeer { peer, task, _registered: registered }
    }

    /// Applies a batch of the client's node.
    pub fn on_client_frames(&self, node: &str, peer: u64, number: u64, frames: Vec<ClientFrame>) -> Response {
        let peers = self.peers.lock();
        let peer = peers.get(node).and_then(|peers_of_node| peers_of_node.get(&peer));
        peer.map_or(Response::UnknownPeer, |peer| peer.on_client_frames(number, frames))
    }

    /// Keeps the named peers of a node, and returns those that are unknown here.
    pub fn keep_alive(&self, node: &str, mut ids: Vec<u64>) -> Vec<u64> {
        let (peers, now) = (self.peers.lock(), Instant::now());
        let peers_of_node = peers.get(node);
        ids.retain(|id| match peers_of_node.and_then(|peers_of_node| peers_of_node.get(id)) {
            Some(peer) => {
                peer.keep_alive(now);
                false
            }
            None => true,
        });
        ids
    }

    /// Removes peers that ended or were not kept alive.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.peers.lock().retain(|_, peers_of_node| {
            peers_of_node.retain(|_, peer| !peer.is_expired(now));
            !peers_of_node.is_empty()
        });
    }
}

impl RemotePeer {
    fn on_client_frames(&self, number: u64, frames: Vec<ClientFrame>) -> Response {
        let mut incoming = self.peer.incoming.lock();
        if number == incoming.number + 1 {
            incoming.number = number;
            incoming.bytes += frames.iter().map(ClientFrame::size).sum::<usize>();
            if frames.iter().any(|frame| matches!(frame, ClientFrame::Disconnected(_))) {
                self.peer.disconnected.notify_one();
            }
            incoming.frames.extend(frames);
        } else if number != incoming.number {
            return Response::UnknownPeer;
        }
        let backpressure = incoming.bytes > BACKPRESSURE_BYTES;
        drop(incoming);
        self.peer.connection.wake();
        Response::Ack { backpressure }
    }

    fn keep_alive(&self, now: Instant) {
        self.peer.incoming.lock().last_keep_alive = now;
        self.peer.connection.mark_alive();
    }

    fn is_expired(&self, now: Instant) -> bool {
        let last = self.peer.incoming.lock().last_keep_alive;
        self.task.is_finished() || now.saturating_duration_since(last) > PEER_LOST_TIMEOUT + PEER_LOST_TIMEOUT / 2
    }
}

impl Drop for RemotePeer {
    fn drop(&mut self) {
        // Drops the handler, which frees the seat.
        self.task.abort();
    }
}

async fn run(peer: Arc<PeerState>, mut handler: Box<dyn Handler>, bus: Arc<dyn NodeBus>, node: String, id: u64) {
    let mut number = 0;
    while let Some(Batch { frames, close }) = poll_fn(|cx| peer.poll(&mut *handler, cx)).await {
        number += 1;
        let close = close.map(CloseReason::code);
        let batch = Request::ServerFrames { peer: id, number, frames: Base64Bytes(frames), close };
        tokio::select! {
            sent = send_reliably(&*bus, &node, batch) => {
                if close.is_some() || sent.is_err() {
                    peer.connection.abandon();
                }
            }
            // The frames that it sent before are still handled.
            () = peer.disconnected.notified() => {}
        }
    }
}

impl PeerState {
    /// Handles the client's frames. Ready with the next batch for the client, or with `None` at the end.
    fn poll(&self, handler: &mut dyn Handler, cx: &mut Context<'_>) -> Poll<Option<Batch>> {
        let connection = &self.connection;
        connection.set_task(cx.waker());
        if connection.phase() == Phase::Open
            && let Err(reason) = handler.on_wake()
        {
            connection.close(reason);
        }
        while connection.phase() == Phase::Open && handler.poll_ready(cx).is_ready() {
            let Some(frame) = self.next_client_frame() else { break };
            if let Err(reason) = self.handle(handler, &frame) {
                connection.close(reason);
            }
        }
        if connection.phase() != Phase::Open {
            handler.on_end();
        }
        self.next_batch()
    }

    fn next_client_frame(&self) -> Option<ClientFrame> {
        let mut incoming = self.incoming.lock();
        let frame = incoming.frames.pop_front()?;
        incoming.bytes -= frame.size();
        Some(frame)
    }

    fn handle(&self, handler: &mut dyn Handler, frame: &ClientFrame) -> Result<(), CloseReason> {
        match frame {
            ClientFrame::Text(text) => handler.on_frame().and_then(|()| handler.on_text(text)),
            ClientFrame::Binary(Base64Bytes(bytes)) => handler.on_frame().and_then(|()| handler.on_binary(bytes)),
            ClientFrame::Close(Base64Bytes(payload)) => {
                handler.on_close(payload);
                Ok(())
            }
            ClientFrame::Disconnected(code) => {
                // The registry counts closes by reason.
                self.connection.close(CloseReason::of(*code).unwrap_or(CloseReason::Normal));
                self.connection.abandon();
                Ok(())
            }
        }
    }

    fn next_batch(&self) -> Poll<Option<Batch>> {
        let mut frames: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        loop {
            while bytes < BATCH_BYTES
                && let Some(frame) = self.connection.pop_frames()
            {
                bytes += frame.len();
                frames.push(frame);
            }
            let close = match self.connection.phase() {
                Phase::Closed(_) => return Poll::Ready(None),
                Phase::Closing(_) | Phase::Open if bytes >= BATCH_BYTES => None,
                Phase::Open if frames.is_empty() => return Poll::Pending,
                Phase::Open => None,
                // The close began after the last pop: its frames come first.
                Phase::Closing(_) if self.connection.waiting_bytes() > 0 => continue,
                Phase::Closing(reason) => {
                    // The last frame is the Close frame; the client's node writes its own.
                    frames.pop();
                    Some(reason)
                }
            };
            return Poll::Ready(Some(Batch { frames: frames.concat(), close }));
        }
    }
}
