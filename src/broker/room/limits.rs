//! What rooms may use, and what one room has used.

use std::time::{Duration, Instant};

use crate::protocol::CloseReason;

/// Limits of every room. Counts, bytes and times of 0 mean no limit only where the comment says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomLimits {
    /// Messages of one room in all; 0 for no limit.
    pub max_exchanges: u64,
    /// Bytes of all messages of one room; 0 for no limit.
    pub max_data_bytes: u64,
    /// From a room's creation to its end, whatever its traffic; 0 for no limit.
    pub lifespan: Duration,
    /// For the relay form, where it differs.
    pub relay: Option<RoomCaps>,
    /// Peers of one room of the channelserver form at once.
    pub max_connections: usize,
    /// Rooms of this node at once.
    pub max_rooms: u64,
    /// Rooms at once that one address opened, on all nodes together; 0 for no limit.
    pub max_rooms_per_address: u64,
    /// Seats that a room of our own form may ask for.
    pub max_seats: usize,
    /// How long a seat is kept for a peer whose connection was lost.
    pub resume: Duration,
    /// The newest messages of a room that are kept for peers who come back.
    pub resume_messages: usize,
    pub resume_bytes: usize,
    /// Life of a short code.
    pub code: Duration,
    /// Wrong codes that one room bears.
    pub code_attempts: u32,
}

/// What one room may use; 0 means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomCaps {
    pub max_exchanges: u64,
    pub max_data_bytes: u64,
    pub lifespan: Duration,
}

impl RoomLimits {
    pub fn caps(&self) -> RoomCaps {
        let Self { max_exchanges, max_data_bytes, lifespan, .. } = *self;
        RoomCaps { max_exchanges, max_data_bytes, lifespan }
    }

    pub fn relay_caps(&self) -> RoomCaps {
        self.relay.unwrap_or_else(|| self.caps())
    }
}

/// What one room has used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    caps: RoomCaps,
    created: Instant,
    exchanges: u64,
    data_bytes: u64,
}

impl Usage {
    pub fn new(created: Instant, caps: RoomCaps) -> Self {
        Self { caps, created, exchanges: 0, data_bytes: 0 }
    }

    /// Messages so far.
    pub fn exchanges(&self) -> u64 {
        self.exchanges
    }

    /// Whether the room has outlived its lifespan.
    pub fn is_over(&self, now: Instant) -> bool {
        let lifespan = self.caps.lifespan;
        !lifespan.is_zero() && now.saturating_duration_since(self.created) >= lifespan
    }

    /// Counts a message of `bytes`; an error ends the room, and the message is not delivered.
    pub fn charge(&mut self, bytes: usize, now: Instant) -> Result<(), CloseReason> {
        let RoomCaps { max_exchanges, max_data_bytes, lifespan: _ } = self.caps;
        if self.is_over(now) {
            return Err(CloseReason::LifespanExpired);
        }
        let exchanges = self.exchanges.saturating_add(1);
        let data_bytes = self.data_bytes.saturating_add(bytes as u64);
        if max_exchanges != 0 && exchanges > max_exchanges {
            return Err(CloseReason::MessageLimit);
        }
        if max_data_bytes != 0 && data_bytes > max_data_bytes {
            return Err(CloseReason::DataLimit);
        }
        (self.exchanges, self.data_bytes) = (exchanges, data_bytes);
        Ok(())
    }

    /// Of two rooms that become one: nobody gains by it.
    pub fn merge(self, other: Self) -> Self {
        Self {
            caps: self.caps,
            created: self.created.min(other.created),
            exchanges: self.exchanges.max(other.exchanges),
            data_bytes: self.data_bytes.max(other.data_bytes),
        }
    }
}
