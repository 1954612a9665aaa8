//! A peer of a room of this node whose client is connected to another one. Its handler is the one of every peer of its
//! form; what it would read from a socket comes over the bus, and what it would write goes there.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::BACKPRESSURE_BYTES;
use super::wire::{Base64Bytes, ClientFrame, PEER_LOST_TIMEOUT, Request, Response, RoomTarget, send_reliably};
use crate::broker::connection::registry::Registered;
use crate::broker::{BufferedSocket, Connection, ConnectionLimits, NodeBus, Phase};
use crate::protocol::CloseReason;
use crate::protocol::compat::channelserver as frames;
use crate::transport::compat::{channelserver, relay};
use crate::transport::rooms::{Caller, native};
use crate::transport::state::AppState;
use crate::transport::websocket::Handler;

/// Frames that go at once.
const BATCH_BYTES: usize = 256 * 1024;

pub struct RemotePeer {
    peer: Arc<PeerState>,
    driver: AbortHandle,
    _registered: Registered,
}

struct PeerState {
    connection: Arc<Connection<BufferedSocket>>,
    incoming: Mutex<Incoming>,
    /// The client is gone: nothing has to be delivered to it.
    gone: Notify,
}

struct Incoming {
    /// The number of the newest batch.
    number: u64,
    frames: VecDeque<ClientFrame>,
    bytes: usize,
    /// When the client's node last said that the strand is there.
    last_keep_alive: Instant,
}

/// What is to be delivered next.
struct Batch {
    frames: Vec<u8>,
    close: Option<CloseReason>,
}

impl RemotePeer {
    pub fn join(
        app: &Arc<AppState>,
        bus: Arc<dyn NodeBus>,
        node: String,
        strand: u64,
        wanted: RoomTarget,
        caller: Caller,
    ) -> Self {
        let limits = ConnectionLimits { ping: Duration::MAX, pong: Duration::MAX, ..*app.room_connection_limits };
        let connection = Arc::new(Connection::new(app.registry.new_id(), Arc::new(limits), BufferedSocket));
        let registered = app.registry.register_remote_peer(connection.clone());
        let handler: Box<dyn Handler> = match wanted {
            RoomTarget::Channel(id) => Box::new(channelserver::peer(
                app.clone(),
                connection.clone(),
                caller,
                Some(frames::RequestedRoom::Room(id)),
            )),
            RoomTarget::Relay(id) => Box::new(relay::peer(app.clone(), connection.clone(), caller, id)),
            RoomTarget::Native(room) => Box::new(native::guest(app.clone(), connection.clone(), caller, room)),
        };
        let incoming = Incoming { number: 0, frames: VecDeque::new(), bytes: 0, last_keep_alive: Instant::now() };
        let peer = Arc::new(PeerState { connection, incoming: Mutex::new(incoming), gone: Notify::new() });
        let driver = tokio::spawn(drive(peer.clone(), handler, bus, node, strand)).abort_handle();
        Self { peer, driver, _registered: registered }
    }

    /// Takes a batch of what the client says.
    pub fn on_client_frames(&self, number: u64, said: Vec<ClientFrame>) -> Response {
        let mut incoming = self.peer.incoming.lock();
        if number == incoming.number + 1 {
            incoming.number = number;
            incoming.bytes += said.iter().map(ClientFrame::size).sum::<usize>();
            if said.iter().any(|said| matches!(said, ClientFrame::Disconnected(_))) {
                self.peer.gone.notify_one();
            }
            incoming.frames.extend(said);
        } else if number != incoming.number {
            return Response::UnknownPeer;
        }
        let backpressure = incoming.bytes > BACKPRESSURE_BYTES;
        drop(incoming);
        self.peer.connection.wake();
        Response::Ack { backpressure }
    }

    /// Its node says that the strand is there.
    pub fn keep_alive(&self, now: Instant) {
        self.peer.incoming.lock().last_keep_alive = now;
        self.peer.connection.mark_alive();
    }

    /// Whether there is nothing left to do for it. Whoever was not held for long is given up.
    pub fn is_expired(&self, now: Instant) -> bool {
        let held = self.peer.incoming.lock().last_keep_alive;
        self.driver.is_finished() || now.saturating_duration_since(held) > PEER_LOST_TIMEOUT + PEER_LOST_TIMEOUT / 2
    }
}

impl Drop for RemotePeer {
    fn drop(&mut self) {
        // With its handler, which gives up the seat.
        self.driver.abort();
    }
}

async fn drive(peer: Arc<PeerState>, mut handler: Box<dyn Handler>, bus: Arc<dyn NodeBus>, node: String, strand: u64) {
    let mut number = 0;
    while let Some(Batch { frames, close }) = poll_fn(|cx| peer.poll(&mut *handler, cx)).await {
        number += 1;
        let close = close.map(CloseReason::code);
        let hear = Request::ServerFrames { peer: strand, number, frames: Base64Bytes(frames), close };
        tokio::select! {
            passed = send_reliably(&*bus, &node, hear) => {
                if close.is_some() || passed.is_err() {
                    peer.connection.abandon();
                }
            }
            // What it said last is still looked at.
            () = peer.gone.notified() => {}
        }
    }
}

impl PeerState {
    /// Carries out what the client said. Ready with what is to be delivered, or with nothing at the end.
    fn poll(&self, handler: &mut dyn Handler, cx: &mut Context<'_>) -> Poll<Option<Batch>> {
        let connection = &self.connection;
        connection.set_task(cx.waker());
        if connection.phase() == Phase::Open
            && let Err(reason) = handler.on_wake()
        {
            connection.close(reason);
        }
        while connection.phase() == Phase::Open && handler.poll_ready(cx).is_ready() {
            let Some(said) = self.next_client_frame() else { break };
            if let Err(reason) = self.take(handler, &said) {
                connection.close(reason);
            }
        }
        if connection.phase() != Phase::Open {
            handler.on_end();
        }
        self.batch()
    }

    fn next_client_frame(&self) -> Option<ClientFrame> {
        let mut incoming = self.incoming.lock();
        let said = incoming.frames.pop_front()?;
        incoming.bytes -= said.size();
        Some(said)
    }

    fn take(&self, handler: &mut dyn Handler, said: &ClientFrame) -> Result<(), CloseReason> {
        match said {
            ClientFrame::Text(text) => handler.on_frame().and_then(|()| handler.on_text(text)),
            ClientFrame::Binary(Base64Bytes(bytes)) => handler.on_frame().and_then(|()| handler.on_binary(bytes)),
            ClientFrame::Close(Base64Bytes(payload)) => {
                handler.on_close(payload);
                Ok(())
            }
            ClientFrame::Disconnected(code) => {
                // Why it ended is counted.
                self.connection.close(CloseReason::of(*code).unwrap_or(CloseReason::Normal));
                self.connection.abandon();
                Ok(())
            }
        }
    }

    fn batch(&self) -> Poll<Option<Batch>> {
        let mut taken: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        loop {
            while bytes < BATCH_BYTES
                && let Some(frame) = self.connection.pop_frames()
            {
                bytes += frame.len();
                taken.push(frame);
            }
            let close = match self.connection.phase() {
                Phase::Closed(_) => return Poll::Ready(None),
                Phase::Closing(_) | Phase::Open if bytes >= BATCH_BYTES => None,
                Phase::Open if taken.is_empty() => return Poll::Pending,
                Phase::Open => None,
                // It began to close just now.
                Phase::Closing(_) if self.connection.waiting_bytes() > 0 => continue,
                Phase::Closing(reason) => {
                    // The Close frame is the last one. The client's node writes its own.
                    taken.pop();
                    Some(reason)
                }
            };
            return Poll::Ready(Some(Batch { frames: taken.concat(), close }));
        }
    }
}
