//! Words from node to node: each node listens to a pub/sub of its own name. Nothing is kept, so a word arrives at most
//! once, and an answer that does not come in time is taken as lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use redis::cmd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::connection::away;
use super::keys::SCRIPTS;
use super::{Core, millis};
use crate::broker::NodeBus;
use crate::broker::channel::presence::PRESENCE_LEASE;
use crate::broker::engine::node_bus::{NodeMessage, Topic};
use crate::protocol::{ChannelName, ErrorCode, Refusal};

/// Longest time until an answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of words that came and are not dealt with, and of those on their way out. Words beyond it are lost.
const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;

/// What a word takes besides its data.
const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// Nodes that have a publisher are forgotten after this, all together; those that are gone earlier do not answer.
const PUBLISHER_LEASE: Duration = Duration::from_secs(30);

/// The topic of answers.
const RESPONSE_TOPIC: u8 = b'a';

/// What this node waits for and who listens on it.
pub struct MessageRouter {
    asked: Arc<Mutex<HashMap<u64, oneshot::Sender<Bytes>>>>,
    listeners: Mutex<HashMap<u8, mpsc::UnboundedSender<NodeMessage>>>,
    next: AtomicU64,
    incoming: Arc<Semaphore>,
    outgoing: Arc<Semaphore>,
}

impl Default for MessageRouter {
    fn default() -> Self {
        let room = || Arc::new(Semaphore::new(MAX_QUEUED_BYTES));
        Self {
            asked: Arc::default(),
            listeners: Mutex::default(),
            next: AtomicU64::new(1),
            incoming: room(),
            outgoing: room(),
        }
    }
}

impl MessageRouter {
    /// All words for a topic from now on.
    fn listen(&self, topic: Topic) -> mpsc::UnboundedReceiver<NodeMessage> {
        // Bounded by the permits for `incoming`, which each word holds until it is dealt with.
        let (sender, words) = mpsc::unbounded_channel();
        self.listeners.lock().insert(topic as u8, sender);
        words
    }

    /// Takes what came over this node's pub/sub.
    pub fn take(&self, message: &[u8]) {
        let Some(Envelope { topic, number, from, bytes }) = Envelope::read(message) else {
            tracing::warn!("a word over redis that is not the gateway's");
            return;
        };
        let bytes = Bytes::copy_from_slice(bytes);
        if topic == RESPONSE_TOPIC {
            if let Some(asker) = self.asked.lock().remove(&number) {
                // Whoever asked may have gone.
                let _ = asker.send(bytes);
            }
            return;
        }
        let Some(held) = hold(&self.incoming, bytes.len()) else {
            tracing::warn!("more words of other nodes than this one deals with; one is lost");
            return;
        };
        if let Some(listener) = self.listeners.lock().get(&topic) {
            let _ = listener.send(NodeMessage { from: from.to_owned(), number, bytes, permit: held });
        }
    }
}

/// `None` if there is no room.
fn hold(room: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    room.clone().try_acquire_many_owned(u32::try_from(bytes + MESSAGE_OVERHEAD_BYTES).ok()?).ok()
}

/// One word as it goes over the pub/sub: topic, number (8 bytes, big-endian), length of the sender, sender, bytes.
struct Envelope<'a> {
    topic: u8,
    number: u64,
    from: &'a str,
    bytes: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn write(&self) -> Vec<u8> {
        let mut written = vec![self.topic];
        written.extend_from_slice(&self.number.to_be_bytes());
        // A node's name is eight letters.
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

impl Core {
    /// Sends a word. [`ErrorCode::NotFound`] says that no node has that name.
    fn send(&self, node: &str, topic: u8, number: u64, bytes: &[u8]) -> BoxFuture<'static, Result<(), Refusal>> {
        let word = Envelope { topic, number, from: &self.node, bytes }.write();
        let held = hold(&self.words.outgoing, word.len());
        let (name, session) = (self.names.node(node), self.link.session());
        Box::pin(async move {
            let (_held, session) = (held.ok_or_else(away)?, session?);
            let heard: u64 = session.query(cmd(session.publish()).arg(name).arg(word)).await?;
            // A Cluster's answer counts only those who listen where it was asked.
            if heard == 0 && !session.is_cluster() { Err(ErrorCode::NotFound.into()) } else { Ok(()) }
        })
    }
}

impl NodeBus for Core {
    fn node(&self) -> &str {
        &self.node
    }

    fn request(&self, node: &str, topic: Topic, bytes: &[u8]) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let number = self.words.next.fetch_add(1, Ordering::Relaxed);
        let sent = self.send(node, topic as u8, number, bytes);
        let asked = self.words.asked.clone();
        Box::pin(async move {
            let (asker, answer) = oneshot::channel();
            asked.lock().insert(number, asker);
            let _asked = PendingRequest { asked, number };
            tokio::time::timeout(RESPONSE_TIMEOUT, async {
                sent.await?;
                answer.await.map_err(|_| away())
            })
            .await
            .unwrap_or_else(|_| Err(away()))
        })
    }

    fn send(&self, node: &str, topic: Topic, bytes: &[u8]) -> BoxFuture<'static, Result<(), Refusal>> {
        self.send(node, topic as u8, 0, bytes)
    }

    fn answer(&self, word: NodeMessage, bytes: &[u8]) -> BoxFuture<'static, Result<(), Refusal>> {
        self.send(&word.from, RESPONSE_TOPIC, word.number, bytes)
    }

    fn subscribe(&self, topic: Topic) -> mpsc::UnboundedReceiver<NodeMessage> {
        self.words.listen(topic)
    }

    fn register_publisher<'a>(&'a self, publisher: &'a str) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let (session, key) = (self.link.session()?, self.names.publisher(publisher));
            session.query::<u64>(cmd("HSET").arg(&key).arg(&self.node).arg("")).await?;
            session.query(cmd("PEXPIRE").arg(&key).arg(millis(PUBLISHER_LEASE))).await
        })
    }

    fn unregister_publisher<'a>(&'a self, publisher: &'a str, node: &'a str) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let key = self.names.publisher(publisher);
            self.link.session()?.query::<u64>(cmd("HDEL").arg(key).arg(node)).await.map(drop)
        })
    }

    fn watch_presence<'a>(&'a self, channel: &'a ChannelName) -> BoxFuture<'a, Result<Vec<(String, u64)>, Refusal>> {
        Box::pin(async move {
            let (session, names) = (self.link.session()?, &self.names);
            let mut script = SCRIPTS.watch.prepare_invoke();
            script.key(names.watch(channel)).key(names.subscriber_quota(channel));
            script.arg(&self.node).arg(millis(PRESENCE_LEASE)).arg(names.pubsub(channel)).arg(session.publish());
            session.invoke(&script).await
        })
    }

    fn nodes_with_publisher<'a>(&'a self, publisher: &'a str) -> BoxFuture<'a, Result<Vec<String>, Refusal>> {
        Box::pin(async move { self.link.session()?.query(cmd("HKEYS").arg(self.names.publisher(publisher))).await })
    }
}

/// An answer is waited for as long as this lives.
struct PendingRequest {
    asked: Arc<Mutex<HashMap<u64, oneshot::Sender<Bytes>>>>,
    number: u64,
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        self.asked.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(number: u64, bytes: &[u8]) -> Vec<u8> {
        Envelope { topic: Topic::Replies as u8, number, from: "abcdefgh", bytes }.write()
    }

    #[tokio::test]
    async fn a_word_arrives_as_it_was_sent_and_what_is_none_is_left() {
        let words = MessageRouter::default();
        words.take(&word(1, b"nobody listens"));
        let mut listener = words.listen(Topic::Replies);
        let whole = word(7, b"x");
        for length in 0..whole.len() - 1 {
            words.take(&whole[..length]);
        }
        words.take(&word(7, b"\0hello"));
        let got = listener.recv().await.unwrap();
        assert_eq!((got.from.as_str(), got.number, &got.bytes[..]), ("abcdefgh", 7, &b"\0hello"[..]));
        assert!(listener.try_recv().is_err());
    }

    #[tokio::test]
    async fn words_that_nobody_deals_with_take_only_so_much_memory() {
        let words = MessageRouter::default();
        let mut listener = words.listen(Topic::Replies);
        let large = word(0, &vec![0; MAX_QUEUED_BYTES / 4]);
        (0..10).for_each(|_| words.take(&large));
        assert_eq!(listener.len(), 3);
        drop(listener.recv().await);
        words.take(&large);
        assert_eq!(listener.len(), 3, "what was dealt with makes room");
    }
}
