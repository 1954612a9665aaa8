//! Limits of rooms, and the usage of one room.

use std::time::{Duration, Instant};

use crate::protocol::CloseReason;

/// Limits of all rooms. 0 means no limit only where noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomLimits {
    /// Messages of one room over its life; 0 for no limit.
    pub max_exchanges: u64,
    /// Bytes of all messages of one room; 0 for no limit.
    pub max_data_bytes: u64,
    /// From a room's creation to its end; 0 for no limit.
    pub lifespan: Duration,
    /// Limits of the relay protocol, if they differ.
    pub relay: Option<RoomCaps>,
    /// Peers of one room of the channelserver protocol at once.
    pub max_connections: usize,
    /// Rooms of this node at once.
    pub max_rooms: u64,
    /// Rooms at once that one address opened, on all nodes together; 0 for no limit.
    pub max_rooms_per_address: u64,
    /// Highest number of seats of a native room.
    pub max_seats: usize,
    /// How long a seat is kept for a peer whose connection was lost.
    pub resume: Duration,
    /// Messages of a room that are kept for peers that reconnect.
    pub resume_messages: usize,
    /// Bytes of these messages.
    pub resume_bytes: usize,
    /// Validity of a short code.
    pub code: Duration,
    /// Wrong codes until the code of a room is dropped.
    pub code_attempts: u32,
}

/// Limits of one room; 0 means no limit.
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

/// The usage of one room against its limits.
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

    /// Counts a message of `bytes`. After an error the room ends, and the message is not relayed.
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

    /// The usage of two rooms that become one: the higher of both, so that a merge resets nothing.
    pub fn merge(self, other: Self) -> Self {
        Self {
            caps: self.caps,
            created: self.created.min(other.created),
            exchanges: self.exchanges.max(other.exchanges),
            data_bytes: self.data_bytes.max(other.data_bytes),
        }
    }
}
