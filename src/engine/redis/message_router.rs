//! Messages between nodes: their encoding, pending requests and subscribers by topic.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::guard::{Guard, OpenedMessage};
use crate::broker::engine::node_bus::{NodeMessage, Topic};
use crate::ops::log::folded;

/// Bytes of received messages that are not handled yet, and of messages being sent. Messages beyond it are dropped.
const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;

/// Memory of a message besides its data.
const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// The topic of responses.
pub const RESPONSE_TOPIC: u8 = b'a';

type PendingRequests = Mutex<HashMap<u64, oneshot::Sender<Bytes>>>;

/// The pending requests of this node and its subscribers.
pub struct MessageRouter {
    pending_requests: Arc<PendingRequests>,
    subscribers: Mutex<HashMap<u8, mpsc::UnboundedSender<NodeMessage>>>,
    next: AtomicU64,
    incoming: Arc<Semaphore>,
    outgoing: Arc<Semaphore>,
}

/// A request that waits for its response until this is dropped.
pub struct PendingRequest {
    pending_requests: Arc<PendingRequests>,
    number: u64,
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        self.pending_requests.lock().remove(&self.number);
    }
}

impl Default for MessageRouter {
    fn default() -> Self {
        let byte_permits = || Arc::new(Semaphore::new(MAX_QUEUED_BYTES));
        Self {
            pending_requests: Arc::default(),
            subscribers: Mutex::default(),
            next: AtomicU64::new(1),
            incoming: byte_permits(),
            outgoing: byte_permits(),
        }
    }
}

impl MessageRouter {
    /// All messages of a topic from now on.
    pub fn subscribe(&self, topic: Topic) -> mpsc::UnboundedReceiver<NodeMessage> {
        // Bounded by the permits of `incoming`, which each message holds until it is handled.
        let (sender, messages) = mpsc::unbounded_channel();
        self.subscribers.lock().insert(topic as u8, sender);
        messages
    }

    /// The number of a new request.
    pub fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub fn expect_response(&self, number: u64) -> (PendingRequest, oneshot::Receiver<Bytes>) {
        let (sender, response) = oneshot::channel();
        self.pending_requests.lock().insert(number, sender);
        (PendingRequest { pending_requests: self.pending_requests.clone(), number }, response)
    }

    /// Handles a message of the pub/sub `own`, which is that of this node.
    pub fn on_message(&self, guard: &Guard, own: &str, sealed: &[u8]) {
        let Some(OpenedMessage { number: sent, message }) = guard.open_message(own, sealed) else { return };
        let Some(Envelope { topic, number, from, bytes }) = Envelope::read(&message) else {
            folded!(WARN, "", "cannot decode message from node");
            return;
        };
        if sent.is_some_and(|sent| !guard.is_first(from, sent)) {
            return;
        }
        let bytes = message.slice_ref(bytes);
        if topic == RESPONSE_TOPIC {
            if let Some(requester) = self.pending_requests.lock().remove(&number) {
                // The requester may have given up.
                let _ = requester.send(bytes);
            }
            return;
        }
        let Some(permit) = reserve_bytes(&self.incoming, bytes.len()) else {
            folded!(WARN, "", "inter-node queue full, message dropped", node = from);
            return;
        };
        if let Some(subscriber) = self.subscribers.lock().get(&topic) {
            let _ = subscriber.send(NodeMessage { from: from.to_owned(), number, bytes, permit });
        }
    }

    /// Permits for a message to be sent; `None` if too many bytes are being sent.
    pub fn reserve_outgoing(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        reserve_bytes(&self.outgoing, bytes)
    }
}

fn reserve_bytes(permits: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    permits.clone().try_acquire_many_owned(u32::try_from(bytes + MESSAGE_OVERHEAD_BYTES).ok()?).ok()
}

/// A message in the pub/sub: topic, number (8 bytes, big-endian), length of the sender's name, that name, bytes.
pub struct Envelope<'a> {
    pub topic: u8,
    pub number: u64,
    pub from: &'a str,
    pub bytes: &'a [u8],
}

impl<'a> Envelope<'a> {
    pub fn write(&self) -> Vec<u8> {
        let mut written = vec![self.topic];
        written.extend_from_slice(&self.number.to_be_bytes());
        // A node's name has eight letters.
        written.push(self.from.len() as u8);
        written.extend_from_slice(self.from.as_bytes());
        written.extend_from_slice(self.bytes);
        written
    }

    fn read(message: &'a [u8]) -> Option<Self> {
        let (topic, rest) = message.split_first()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first()?;
        let (from, bytes) = rest.split_at_checked(usize::from(*length))?;
        Some(Self { topic: *topic, number: u64::from_be_bytes(*number), from: std::str::from_utf8(from).ok()?, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::redis::cluster_key::Unauthenticated;

    fn message(number: u64, bytes: &[u8]) -> Vec<u8> {
        Envelope { topic: Topic::Replies as u8, number, from: "abcdefgh", bytes }.write()
    }

    #[tokio::test]
    async fn delivers_messages_and_drops_malformed_ones() {
        let (router, guard) = (MessageRouter::default(), Guard::new(&[], Unauthenticated::Refuse));
        let on_message = |message: &[u8]| router.on_message(&guard, "own", message);
        on_message(&message(1, b"no subscriber"));
        let mut subscriber = router.subscribe(Topic::Replies);
        let full = message(7, b"x");
        for length in 0..full.len() - 1 {
            on_message(&full[..length]);
        }
        on_message(&message(7, b"\0hello"));
        let received = subscriber.recv().await.unwrap();
        assert_eq!((received.from.as_str(), received.number, &received.bytes[..]), ("abcdefgh", 7, &b"\0hello"[..]));
        assert!(subscriber.try_recv().is_err());
    }

    #[tokio::test]
    async fn unhandled_messages_are_bounded() {
        let (router, guard) = (MessageRouter::default(), Guard::new(&[], Unauthenticated::Refuse));
        let on_message = |message: &[u8]| router.on_message(&guard, "own", message);
        let mut subscriber = router.subscribe(Topic::Replies);
        let large = message(0, &vec![0; MAX_QUEUED_BYTES / 4]);
        (0..10).for_each(|_| on_message(&large));
        assert_eq!(subscriber.len(), 3);
        drop(subscriber.recv().await);
        on_message(&large);
        assert_eq!(subscriber.len(), 3, "a handled message frees its bytes");
    }
}
