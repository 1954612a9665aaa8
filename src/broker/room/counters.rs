//! Metrics of rooms. Their names are part of the contract with operators.

use metrics::{Counter, Gauge, counter, gauge};

use crate::protocol::CloseReason;

/// Metric handles: counting is one atomic addition.
pub struct RoomCounters {
    pub open: Gauge,
    pub opened: Counter,
    pub messages: Counter,
    /// Peers that were silent for too long.
    pub timeouts: Counter,
    closed: Vec<(CloseReason, Counter)>,
}

/// The reasons why rooms end. [`CloseReason::Normal`]: the last peer left.
const ROOM_END_REASONS: [CloseReason; 6] = [
    CloseReason::Normal,
    CloseReason::PeerLeft,
    CloseReason::LifespanExpired,
    CloseReason::MessageLimit,
    CloseReason::DataLimit,
    CloseReason::EngineUnavailable,
];

impl Default for RoomCounters {
    /// Registers with the current recorder.
    fn default() -> Self {
        let name = |reason: CloseReason| if reason == CloseReason::Normal { "left" } else { reason.name() };
        let closed = |reason| (reason, counter!("lastmile_rooms_closed_total", "reason" => name(reason)));
        Self {
            open: gauge!("lastmile_rooms"),
            opened: counter!("lastmile_rooms_opened_total"),
            messages: counter!("lastmile_room_messages_total"),
            timeouts: counter!("lastmile_room_timeouts_total"),
            closed: ROOM_END_REASONS.map(closed).into(),
        }
    }
}

impl RoomCounters {
    pub fn closed(&self, reason: CloseReason) {
        if let Some((_, counter)) = self.closed.iter().find(|(known, _)| *known == reason) {
            counter.increment(1);
        }
    }
}
