//! The state of native rooms and their members: credentials, retained messages, kept seats.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::code::RoomCode;
use super::context::RoomContext;
use super::limits::RoomLimits;
use super::secret::Digest;

/// What only rooms of our own form have.
pub struct Native {
    pub join: Digest,
    pub seats: usize,
    pub code: Option<RoomCode>,
    pub expires: Option<String>,
    /// The number of the newest guest.
    pub members_total: u64,
    /// The newest messages, for peers who come back.
    retained: VecDeque<RetainedMessage>,
    retained_bytes: usize,
    /// Nobody is in it, since the sweep at this time.
    pub empty_since: Option<Instant>,
}

/// A message that was sent.
struct RetainedMessage {
    seq: u64,
    from: u64,
    frame: Bytes,
}

/// A peer of such a room.
pub struct Member {
    pub number: u64,
    /// `p1`, `p2`, …
    pub name: String,
    pub resume: Digest,
    pub disconnected: Option<Disconnected>,
}

pub struct Disconnected {
    /// The newest message when it left.
    pub seq: u64,
    /// The first sweep that found it away.
    pub since: Option<Instant>,
}

impl Native {
    pub fn new(join: Digest, seats: usize, code: Option<RoomCode>, expires: Option<String>) -> Self {
        let kept = VecDeque::new();
        Self { join, seats, code, expires, members_total: 0, retained: kept, retained_bytes: 0, empty_since: None }
    }

    /// Keeps a message for those who come back.
    pub fn retain(&mut self, seq: u64, from: u64, frame: Bytes, limits: &RoomLimits) {
        self.retained_bytes += frame.len();
        self.retained.push_back(RetainedMessage { seq, from, frame });
        while self.retained.len() > limits.resume_messages || self.retained_bytes > limits.resume_bytes {
            let Some(oldest) = self.retained.pop_front() else { return };
            self.retained_bytes -= oldest.frame.len();
        }
    }

    /// The messages behind `seen`, of others than `to`, and whether none of them is missing. `newest` is the number of
    /// the newest message of all.
    pub fn unread(&self, seen: u64, to: u64, newest: u64) -> (bool, impl Iterator<Item = &Bytes>) {
        let oldest = self.retained.front().map_or(newest + 1, |kept| kept.seq);
        let unread = self.retained.iter().filter(move |kept| kept.seq > seen && kept.from != to);
        (seen.saturating_add(1) >= oldest, unread.map(|kept| &kept.frame))
    }

    pub fn drop_code(&mut self, shared: &RoomContext) {
        if let Some(code) = self.code.take() {
            shared.codes.lock().remove(&code.text);
        }
    }

    /// Whether a code opens this room. A wrong one counts.
    pub fn try_code(&mut self, written: &str, now: Instant, shared: &RoomContext) -> bool {
        let Some(code) = &mut self.code else {
            let _ = Digest::NONE.is_of(written);
            return false;
        };
        let is_right = code.digest.is_of(written) && now < code.expires;
        if !is_right {
            code.tries_left = code.tries_left.saturating_sub(1);
        }
        if code.tries_left == 0 {
            self.drop_code(shared);
        }
        is_right
    }
}
