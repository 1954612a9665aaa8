//! Seals values and messages for Redis with the cluster key, and verifies those that this node reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use metrics::{Counter, counter};
use parking_lot::Mutex;

use super::cluster_key::{ClusterKeys, ClusterSecret, MAX_CLOCK_SKEW, Purpose, Unauthenticated};
use super::connection::unavailable;
use super::replay_windows::ReplayWindows;
use crate::broker::engine::shared_store::Authentication;
use crate::engine::millis::millis;
use crate::protocol::{ErrorCode, Refusal};

/// A flood of forged values must not fill the log.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

pub struct Guard {
    keys: Option<ClusterKeys>,
    unauthenticated: Unauthenticated,
    refused: Counter,
    last_logged: Mutex<Option<Instant>>,
    /// Number of the newest message to other nodes.
    messages: AtomicU64,
    windows: Mutex<ReplayWindows>,
}

impl Guard {
    /// Registers its metric with the current recorder.
    pub fn new(secrets: &[ClusterSecret], unauthenticated: Unauthenticated) -> Self {
        Self {
            keys: ClusterKeys::new(secrets),
            unauthenticated,
            refused: counter!("lastmile_cluster_messages_refused_total"),
            last_logged: Mutex::default(),
            messages: AtomicU64::new(0),
            windows: Mutex::default(),
        }
    }

    pub fn authentication(&self) -> Authentication {
        match (&self.keys, self.unauthenticated) {
            (None, _) | (_, Unauthenticated::Write) => Authentication::None,
            (_, Unauthenticated::Accept) => Authentication::Written,
            (_, Unauthenticated::Refuse) => Authentication::Required,
        }
    }

    /// The keys, if this node authenticates what it writes.
    pub fn writing_keys(&self) -> Option<&ClusterKeys> {
        self.keys.as_ref().filter(|_| self.authentication() != Authentication::None)
    }

    /// The keys that verify what other nodes wrote.
    pub fn keys(&self) -> Option<&ClusterKeys> {
        self.keys.as_ref()
    }

    pub fn accepts_unauthenticated(&self) -> bool {
        self.authentication() != Authentication::Required
    }

    /// Counts what does not verify, and logs one per second.
    pub fn refuse(&self, what: &str, name: &str) {
        self.refused.increment(1);
        let mut last = self.last_logged.lock();
        if last.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            *last = Some(Instant::now());
            tracing::warn!(what, name, "not authenticated by the cluster key, refused");
        }
    }

    /// Seals for other nodes, which open it until `ttl` has passed on every clock.
    pub fn seal(&self, purpose: Purpose, name: &str, content: &[u8], ttl: Duration) -> Result<Vec<u8>, Refusal> {
        let Some(keys) = self.writing_keys() else { return Ok(content.to_vec()) };
        let expires = unix_millis().saturating_add(millis(ttl)).saturating_add(millis(MAX_CLOCK_SKEW));
        keys.seal(purpose, name, content, expires).map_err(|_| ErrorCode::Internal.into())
    }

    /// Seals a value that nodes compare in Redis.
    pub fn seal_comparable(&self, name: &str, content: &[u8]) -> Result<Vec<u8>, Refusal> {
        let Some(keys) = self.writing_keys() else { return Ok(content.to_vec()) };
        keys.seal_comparable(name, content).map_err(|_| ErrorCode::Internal.into())
    }

    /// The content, if a node wrote it under this name. Refuses anything else.
    pub fn open(&self, purpose: Purpose, name: &str, bytes: Vec<u8>) -> Result<Bytes, Refusal> {
        let opened = self.keys.as_ref().and_then(|keys| keys.open(purpose, name, &bytes, unix_millis()).ok());
        match opened {
            Some(content) => Ok(content),
            None if self.accepts_unauthenticated() => Ok(bytes.into()),
            None => {
                self.refuse("value", name);
                Err(unavailable())
            }
        }
    }

    /// Seals a message to the node whose pub/sub is `to`.
    pub fn seal_message(&self, to: &str, message: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        let Some(keys) = self.writing_keys() else { return Ok(message) };
        let number = self.messages.fetch_add(1, Ordering::Relaxed) + 1;
        let numbered = [&number.to_be_bytes()[..], &message].concat();
        let expires = unix_millis().saturating_add(millis(MAX_CLOCK_SKEW));
        keys.seal(Purpose::Message, to, &numbered, expires).map_err(|_| ErrorCode::Internal.into())
    }

    /// The message that a node sent to the pub/sub `to`, with its number. `None` if it is not to be handled.
    pub fn open_message(&self, to: &str, bytes: &[u8]) -> Option<OpenedMessage> {
        let opened = self.keys.as_ref().and_then(|keys| keys.open(Purpose::Message, to, bytes, unix_millis()).ok());
        match opened {
            Some(mut message) if message.len() >= 8 => {
                let number = bytes::Buf::get_u64(&mut message);
                Some(OpenedMessage { number: Some(number), message })
            }
            None if self.accepts_unauthenticated() => {
                Some(OpenedMessage { number: None, message: Bytes::copy_from_slice(bytes) })
            }
            _ => {
                self.refuse("message", to);
                None
            }
        }
    }

    /// Whether a node's message arrives for the first time. Redis may send what it carried once more.
    pub fn is_first(&self, from: &str, number: u64) -> bool {
        let is_first = self.windows.lock().record(from, number, Instant::now());
        if !is_first {
            self.refuse("repeated message", from);
        }
        is_first
    }
}

pub struct OpenedMessage {
    /// Rises with every message of the sender; `None` if the message is not authenticated.
    pub number: Option<u64>,
    pub message: Bytes,
}

pub fn unix_millis() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
