//! The relay form: any number of pairs under one id, and at most one peer that waits. A pair is a room; its limits stay
//! with who is left of it.

use std::time::Instant;

use super::context::RoomContext;
use super::table::{JoinRequest, Room, RoomTable, TableState};
use crate::protocol::CloseReason;
use crate::protocol::compat::relay::ControlMessage;

impl RoomTable {
    /// Pairs `joiner` with who waits. Gives it back if nobody does.
    pub fn join_waiting(
        &self,
        joiner: JoinRequest,
        now: Instant,
        shared: &RoomContext,
    ) -> Result<(usize, u64), JoinRequest> {
        let mut state = self.lock();
        match state.waiter(now, shared) {
            Some(waiter) => Ok(state.pair(waiter, joiner)),
            None => Err(joiner),
        }
    }

    /// Pairs `joiner` with who waits, or makes it wait. `None` if there is no place for one more room. To be called
    /// under the lock of the names.
    pub fn join_relay(&self, joiner: JoinRequest, now: Instant, shared: &RoomContext) -> Option<(usize, u64)> {
        let mut state = self.lock();
        // Its last peer may have left since it was found.
        self.undelete();
        if let Some(waiter) = state.waiter(now, shared) {
            return Some(state.pair(waiter, joiner));
        }
        let Some(place) = shared.quota.open(joiner.address) else {
            // Nobody may be left under this id.
            self.mark_if_empty(&state);
            return None;
        };
        let room = state.rooms.insert(Room::new(place, now, shared.limits.relay_caps()));
        joiner.connection.send(&ControlMessage::Waiting.frame());
        state.waiting = Some(room);
        Some(state.sit(room, joiner, None))
    }

    pub fn leave_relay(&self, (at, token): (usize, u64), now: Instant, shared: &RoomContext) -> bool {
        let mut state = self.lock();
        if state.peer(at, token).is_some() {
            let room = state.rise(at);
            match state.rooms[room].members.first().copied() {
                None => state.remove_room(room, CloseReason::Normal, shared),
                Some(left) if !state.is_here(left) => {
                    state.rise(left);
                    state.remove_room(room, CloseReason::Normal, shared);
                }
                Some(left) => {
                    state.tell(left, &[ControlMessage::Close]);
                    state.pair_again(left, room, now, shared);
                }
            }
        }
        self.mark_if_empty(&state)
    }
}

impl TableState {
    /// Who waits, and where. Whoever stopped waiting without being noticed is put out of the way.
    fn waiter(&mut self, now: Instant, shared: &RoomContext) -> Option<(usize, usize)> {
        let room = self.waiting?;
        if self.rooms[room].usage.is_over(now) {
            self.end(room, CloseReason::LifespanExpired, shared);
            return None;
        }
        let waiter = self.rooms[room].members.first().copied()?;
        if self.is_here(waiter) {
            return Some((room, waiter));
        }
        self.rise(waiter);
        self.remove_room(room, CloseReason::Normal, shared);
        None
    }

    /// Seats `joiner` beside who waits.
    fn pair(&mut self, (room, waiter): (usize, usize), joiner: JoinRequest) -> (usize, u64) {
        joiner.connection.send(&ControlMessage::Connected.frame());
        self.waiting = None;
        let seat = self.sit(room, joiner, None);
        self.tell(waiter, &[ControlMessage::Open, ControlMessage::Connected]);
        seat
    }

    /// Finds another peer for the one that is left in `room`.
    fn pair_again(&mut self, left: usize, room: usize, now: Instant, shared: &RoomContext) {
        let Some((waiting, waiter)) = self.waiter(now, shared) else {
            self.tell(left, &[ControlMessage::Waiting]);
            self.waiting = Some(room);
            return;
        };
        let spent = self.rooms[room].usage.merge(self.rooms[waiting].usage);
        let moved = &mut self.rooms[room];
        moved.usage = spent;
        moved.members.push(waiter);
        self.peers[waiter].room = room;
        self.rooms[waiting].members.clear();
        self.remove_room(waiting, CloseReason::Normal, shared);
        self.tell(left, &[ControlMessage::Connected]);
        self.tell(waiter, &[ControlMessage::Open, ControlMessage::Connected]);
    }

    fn tell(&self, at: usize, words: &[ControlMessage]) {
        words.iter().for_each(|word| self.send(at, &word.frame()));
    }
}
