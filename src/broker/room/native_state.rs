//! The state of native rooms and their members: credentials, retained messages, kept seats.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::code::RoomCode;
use super::context::RoomContext;
use super::limits::RoomLimits;
use super::secret::Digest;

/// The state of a native room.
pub struct Native {
    pub join: Digest,
    pub seats: usize,
    pub code: Option<RoomCode>,
    pub expires: Option<String>,
    /// Members so far: the number of the newest one.
    pub members_total: u64,
    /// The newest messages, for peers that reconnect.
    retained: VecDeque<RetainedMessage>,
    retained_bytes: usize,
    /// The sweep that first found the room without peers.
    pub empty_since: Option<Instant>,
}

/// A message that was relayed.
struct RetainedMessage {
    seq: u64,
    from: u64,
    frame: Bytes,
}

/// A peer of a native room.
pub struct Member {
    pub number: u64,
    /// `p1`, `p2`, …
    pub name: String,
    pub resume: Digest,
    pub disconnected: Option<Disconnected>,
}

pub struct Disconnected {
    /// The newest message at the disconnect.
    pub seq: u64,
    /// The first sweep that found it disconnected.
    pub since: Option<Instant>,
}

impl Native {
    pub fn new(join: Digest, seats: usize, code: Option<RoomCode>, expires: Option<String>) -> Self {
        Self {
            join,
            seats,
            code,
            expires,
            members_total: 0,
            retained: VecDeque::new(),
            retained_bytes: 0,
            empty_since: None,
        }
    }

    /// Keeps a message for peers that reconnect.
    pub fn retain(&mut self, seq: u64, from: u64, frame: Bytes, limits: &RoomLimits) {
        self.retained_bytes += frame.len();
        self.retained.push_back(RetainedMessage { seq, from, frame });
        while self.retained.len() > limits.resume_messages || self.retained_bytes > limits.resume_bytes {
            let Some(oldest) = self.retained.pop_front() else { return };
            self.retained_bytes -= oldest.frame.len();
        }
    }

    /// The messages after `seen` from other members than `to`, and whether all of them are retained. `newest` is the number of
    /// the newest message.
    pub fn unread(&self, seen: u64, to: u64, newest: u64) -> (bool, impl Iterator<Item = &Bytes>) {
        let oldest = self.retained.front().map_or(newest + 1, |message| message.seq);
        let unread = self.retained.iter().filter(move |message| message.seq > seen && message.from != to);
        (seen.saturating_add(1) >= oldest, unread.map(|message| &message.frame))
    }

    pub fn drop_code(&mut self, context: &RoomContext) {
        if let Some(code) = self.code.take() {
            context.codes.lock().remove(&code.text);
        }
    }

    /// Whether a code is valid for this room. Counts failed attempts.
    pub fn try_code(&mut self, text: &str, now: Instant, context: &RoomContext) -> bool {
        let Some(code) = &mut self.code else {
            let _ = Digest::NONE.is_of(text);
            return false;
        };
        let is_valid = code.digest.is_of(text) && now < code.expires;
        if !is_valid {
            code.tries_left = code.tries_left.saturating_sub(1);
        }
        if code.tries_left == 0 {
            self.drop_code(context);
        }
        is_valid
    }
}
