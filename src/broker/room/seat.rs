//! The seat of a peer in a room.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;

use super::map::RoomMap;
use super::table::{Key, Relayed, RoomTable};

/// A seat in a room; left when this is dropped.
pub struct Seat {
    rooms: Arc<RoomMap>,
    table: Arc<RoomTable>,
    slot: (usize, u64),
    name: String,
    /// The peer left for good.
    has_left: bool,
}

impl Seat {
    pub(super) fn new(rooms: Arc<RoomMap>, table: Arc<RoomTable>, slot: (usize, u64), name: String) -> Self {
        Self { rooms, table, slot, name, has_left: false }
    }

    /// The name of this peer in a native room.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Relays a message, counted as `bytes`, to the other peers. `frame` gets its sequence number in the room.
    pub fn relay(&self, bytes: usize, now: Instant, frame: impl FnOnce(u64) -> Bytes) -> Relayed {
        let (relayed, is_empty) = self.table.relay(self.slot, bytes, now, &self.rooms.context, frame);
        self.remove_if_empty(is_empty);
        relayed
    }

    /// Pending while too much waits for one of the other peers; then the task of `cx` is woken.
    pub fn poll_drained(&self, cx: &Context<'_>) -> Poll<()> {
        self.table.poll_drained(self.slot, cx)
    }

    /// Leaves the seat for good.
    pub fn leave(mut self) {
        self.has_left = true;
    }

    /// Ends a native room for all peers.
    pub fn end_room(self) {
        let is_empty = self.table.end_native(self.slot, &self.rooms.context);
        self.remove_if_empty(is_empty);
    }

    /// Counts a timeout of this peer.
    pub fn timed_out(&self) {
        self.rooms.context.counters.timeouts.increment(1);
    }

    fn remove_if_empty(&self, is_empty: bool) {
        if is_empty {
            self.rooms.remove(&self.table);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let (table, context) = (&self.table, &self.rooms.context);
        let is_empty = match &table.key {
            Key::Channel(_) => table.leave_channel(self.slot, context),
            // `drop` has no time argument; the lifespan of the waiting peer needs the current time.
            Key::Relay(_) => table.leave_relay(self.slot, Instant::now(), context),
            Key::Native(_) => table.leave_native(self.slot, self.has_left, context),
        };
        self.remove_if_empty(is_empty);
    }
}
