//! A connection of this node whose peer is in a room of another node: what it says goes there, what comes from there goes
//! to its socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::wire::{ClientFrame, PeerLost, Request, Response, RoomTarget, send_reliably};
use super::{BACKPRESSURE_BYTES, ClusterRooms};
use crate::broker::{Connection, NodeBus, Phase};
use crate::protocol::CloseReason;
use crate::protocol::frame::room_frames::Sender;
use crate::transport::rooms::Caller;

/// Bytes that go at once.
const BATCH_BYTES: usize = 64 * 1024;

/// More is not read from the client while so much of what it said waits, so that the queue has a bound.
const MAX_QUEUED_BYTES: usize = 64 * 1024;

/// Held by the connection's handler.
pub struct RoomForwarder {
    frames: mpsc::UnboundedSender<ClientFrame>,
    waiting: Arc<Backlogged>,
    connection: Arc<Connection>,
}

#[derive(Default)]
struct Backlogged {
    bytes: AtomicUsize,
    task: AtomicWaker,
}

/// What the node knows of a strand while it leads somewhere.
pub struct ForwardedPeer {
    pub node: String,
    pub connection: Arc<Connection>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The room's node knows it.
    is_known: bool,
    /// The number of the newest batch that was taken.
    heard: u64,
}

impl RoomForwarder {
    pub fn begin(
        elsewhere: &Arc<ClusterRooms>,
        node: String,
        target: RoomTarget,
        caller: &Caller,
        connection: Arc<Connection>,
    ) -> Self {
        let Caller { sender, address, .. } = caller;
        let enter = Request::Join { peer: connection.id, target, sender: Sender::clone(sender), address: *address };
        let line = ForwardedPeer { node, connection: connection.clone(), state: Mutex::default() };
        let (strand, to_say) = Self::new(connection);
        tokio::spawn(run(elsewhere.clone(), Arc::new(line), enter, to_say, strand.waiting.clone()));
        strand
    }

    fn new(connection: Arc<Connection>) -> (Self, mpsc::UnboundedReceiver<ClientFrame>) {
        // Bounded, as nothing is read from the client unless `poll_ready` is.
        let (said, to_say) = mpsc::unbounded_channel();
        (Self { frames: said, waiting: Arc::default(), connection }, to_say)
    }

    pub fn forward(&self, said: ClientFrame) {
        self.waiting.bytes.fetch_add(said.size(), Ordering::Relaxed);
        // If nobody carries it any more, the connection was closed.
        let _ = self.frames.send(said);
    }

    /// Pending while too much waits.
    pub fn poll_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.waiting.task.register(cx.waker());
        let is_ready = self.waiting.bytes.load(Ordering::Acquire) <= MAX_QUEUED_BYTES || self.frames.is_closed();
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
    /// Takes a batch of the room's node.
    pub fn on_frames(&self, from: &str, number: u64, frames: Vec<u8>, close: Option<u16>) -> Response {
        if from != self.node || self.connection.phase() != Phase::Open {
            return Response::UnknownPeer;
        }
        let mut state = self.state.lock();
        if number == state.heard + 1 {
            state.heard = number;
            if !frames.is_empty() {
                self.connection.send(&Bytes::from(frames));
            }
            if let Some(code) = close {
                self.connection.close(CloseReason::of(code).unwrap_or(CloseReason::EngineUnavailable));
            }
        } else if number != state.heard {
            return Response::UnknownPeer;
        }
        Response::Ack { backpressure: close.is_none() && self.connection.waiting_bytes() > BACKPRESSURE_BYTES }
    }

    pub fn is_known(&self) -> bool {
        self.state.lock().is_known
    }

    /// The room is out of reach.
    pub fn disconnect(&self) {
        self.connection.close(CloseReason::EngineUnavailable);
    }
}

/// Runs as long as there is something to say, and until the room's node knows that the connection is over.
async fn run(
    elsewhere: Arc<ClusterRooms>,
    line: Arc<ForwardedPeer>,
    enter: Request,
    mut to_say: mpsc::UnboundedReceiver<ClientFrame>,
    waiting: Arc<Backlogged>,
) {
    let strand = line.connection.id;
    elsewhere.forwarded.lock().insert(strand, line.clone());
    elsewhere.carried.increment(1);
    let carried = async {
        send_reliably(&*elsewhere.bus, &line.node, enter).await?;
        line.state.lock().is_known = true;
        let mut number = 0;
        while let Some(first) = to_say.recv().await {
            number += 1;
            send_frames(&*elsewhere.bus, &line, number, first, &mut to_say, &waiting).await?;
        }
        Ok(())
    };
    if let Err(PeerLost) = carried.await {
        line.disconnect();
    }
    drop(to_say);
    waiting.task.wake();
    elsewhere.forwarded.lock().remove(&strand);
    elsewhere.carried.decrement(1);
}

/// Sends all that waits, as far as it goes at once.
async fn send_frames(
    bus: &dyn NodeBus,
    line: &ForwardedPeer,
    number: u64,
    first: ClientFrame,
    to_say: &mut mpsc::UnboundedReceiver<ClientFrame>,
    waiting: &Backlogged,
) -> Result<(), PeerLost> {
    let mut bytes = first.size();
    let mut frames = vec![first];
    while bytes < BATCH_BYTES
        && let Ok(next) = to_say.try_recv()
    {
        bytes += next.size();
        frames.push(next);
    }
    send_reliably(bus, &line.node, Request::ClientFrames { peer: line.connection.id, number, frames }).await?;
    waiting.bytes.fetch_sub(bytes, Ordering::Release);
    waiting.task.wake();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::broker::BufferedSocket;
    use crate::broker::room::tests::connection_limits;

    #[test]
    fn a_client_is_not_read_from_while_much_waits_even_if_all_of_it_is_empty() {
        let (strand, mut to_say) =
            RoomForwarder::new(Arc::new(Connection::new(1, Arc::new(connection_limits()), BufferedSocket)));
        let cx = Context::from_waker(Waker::noop());
        for _ in 0..10_000 {
            if strand.poll_ready(&cx).is_ready() {
                strand.forward(ClientFrame::Text(String::new()));
            }
        }
        assert!((1..2_000).contains(&to_say.len()), "{} wait", to_say.len());
        to_say.close();
        assert!(strand.poll_ready(&cx).is_ready(), "nobody carries it any more, so it ends");
    }
}
