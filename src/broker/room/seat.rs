//! A peer's seat, held by its connection.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;

use super::map::RoomMap;
use super::table::{Key, Relayed, RoomTable};

/// A place in a room; it is given up when this is dropped.
pub struct Seat {
    rooms: Arc<RoomMap>,
    table: Arc<RoomTable>,
    slot: (usize, u64),
    name: String,
    /// The peer said that it leaves.
    has_left: bool,
}

impl Seat {
    pub(super) fn new(rooms: Arc<RoomMap>, lobby: Arc<RoomTable>, place: (usize, u64), name: String) -> Self {
        Self { rooms, table: lobby, slot: place, name, has_left: false }
    }

    /// What the others call this peer, in our own form.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hands a message, which counts for `bytes`, to the others. `frame` is given the message's number in its room.
    pub fn relay(&self, bytes: usize, now: Instant, frame: impl FnOnce(u64) -> Bytes) -> Relayed {
        let (relayed, is_empty) = self.table.relay(self.slot, bytes, now, &self.rooms.context, frame);
        self.remove_if_empty(is_empty);
        relayed
    }

    /// Pending while one of the others cannot take more; then the task of `cx` is woken.
    pub fn poll_drained(&self, cx: &Context<'_>) -> Poll<()> {
        self.table.poll_drained(self.slot, cx)
    }

    /// Gives the seat up for good.
    pub fn leave(mut self) {
        self.has_left = true;
    }

    /// Ends the room for everybody (our own form).
    pub fn end_room(self) {
        let is_empty = self.table.end_native(self.slot, &self.rooms.context);
        self.remove_if_empty(is_empty);
    }

    /// Counts a peer that was silent for too long.
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
        let (lobby, shared) = (&self.table, &self.rooms.context);
        let is_empty = match &lobby.key {
            Key::Channel(_) => lobby.leave_channel(self.slot, shared),
            // A drop is told no time; the clock is asked whether who waits is over its lifespan.
            Key::Relay(_) => lobby.leave_relay(self.slot, Instant::now(), shared),
            Key::Native(_) => lobby.leave_native(self.slot, self.has_left, shared),
        };
        self.remove_if_empty(is_empty);
    }
}
