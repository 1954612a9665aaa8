//! A peer's seat, held by its connection.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;

use super::rooms::Rooms;
use super::table::{Key, Relayed, RoomTable};

/// A place in a room; it is given up when this is dropped.
pub struct Seat {
    rooms: Rooms,
    lobby: Arc<RoomTable>,
    place: (usize, u64),
    name: String,
    /// The peer said that it leaves.
    said: bool,
}

impl Seat {
    pub(super) fn new(rooms: Rooms, lobby: Arc<RoomTable>, place: (usize, u64), name: String) -> Self {
        Self { rooms, lobby, place, name, said: false }
    }

    /// What the others call this peer, in our own form.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hands a message, which counts for `bytes`, to the others. `frame` is given the message's number in its room.
    pub fn relay(&self, bytes: usize, now: Instant, frame: impl FnOnce(u64) -> Bytes) -> Relayed {
        let (relayed, is_empty) = self.lobby.relay(self.place, bytes, now, self.rooms.shared(), frame);
        self.tidy(is_empty);
        relayed
    }

    /// Pending while one of the others cannot take more; then the task of `cx` is woken.
    pub fn poll_relief(&self, cx: &Context<'_>) -> Poll<()> {
        self.lobby.poll_relief(self.place, cx)
    }

    /// Gives the seat up for good.
    pub fn leave(mut self) {
        self.said = true;
    }

    /// Ends the room for everybody (our own form).
    pub fn end_room(self) {
        let is_empty = self.lobby.end_native(self.place, self.rooms.shared());
        self.tidy(is_empty);
    }

    /// Counts a peer that was silent for too long.
    pub fn timed_out(&self) {
        self.rooms.shared().counters.timeouts.increment(1);
    }

    fn tidy(&self, is_empty: bool) {
        if is_empty {
            self.rooms.remove(&self.lobby);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let (lobby, shared) = (&self.lobby, self.rooms.shared());
        let is_empty = match &lobby.key {
            Key::Channel(_) => lobby.leave_channel(self.place, shared),
            // A drop is told no time; the clock is asked whether who waits is over its lifespan.
            Key::Relay(_) => lobby.leave_relay(self.place, Instant::now(), shared),
            Key::Native(_) => lobby.leave_native(self.place, self.said, shared),
        };
        self.tidy(is_empty);
    }
}
