//! The relay protocol: any number of pairs under one id, and at most one waiting peer.
//!
//! A pair is a room. If one peer leaves, the other one keeps the room with its usage.

use std::time::Instant;

use super::context::RoomContext;
use super::table::{JoinRequest, Room, RoomTable, TableState};
use crate::protocol::CloseReason;
use crate::protocol::compat::relay::ControlMessage;

impl RoomTable {
    /// Pairs `request` with the waiting peer. Returns it if no peer waits.
    pub fn join_waiting(
        &self,
        request: JoinRequest,
        now: Instant,
        context: &RoomContext,
    ) -> Result<(usize, u64), JoinRequest> {
        let mut state = self.lock();
        match state.waiter(now, context) {
            Some(waiter) => Ok(state.pair(waiter, request)),
            None => Err(request),
        }
    }

    /// Pairs `request` with the waiting peer, or makes it wait. `None` if the limit of rooms is reached. To be called
    /// under the lock of the names.
    pub fn join_relay(&self, request: JoinRequest, now: Instant, context: &RoomContext) -> Option<(usize, u64)> {
        let mut state = self.lock();
        // Its last peer may have left since it was found.
        self.undelete();
        if let Some(waiter) = state.waiter(now, context) {
            return Some(state.pair(waiter, request));
        }
        let Some(permit) = context.quota.open(request.address) else {
            // The table may be without rooms.
            self.mark_if_empty(&state);
            return None;
        };
        let room = state.rooms.insert(Room::new(permit, now, context.limits.relay_caps()));
        request.connection.send(&ControlMessage::Waiting.frame());
        state.waiting = Some(room);
        Some(state.add_peer(room, request, None))
    }

    pub fn leave_relay(&self, (at, token): (usize, u64), now: Instant, context: &RoomContext) -> bool {
        let mut state = self.lock();
        if state.peer(at, token).is_some() {
            let room = state.remove_peer(at);
            match state.rooms[room].members.first().copied() {
                None => state.remove_room(room, CloseReason::Normal, context),
                Some(left) if !state.is_connected(left) => {
                    state.remove_peer(left);
                    state.remove_room(room, CloseReason::Normal, context);
                }
                Some(left) => {
                    state.send_control(left, &[ControlMessage::Close]);
                    state.pair_again(left, room, now, context);
                }
            }
        }
        self.mark_if_empty(&state)
    }
}

impl TableState {
    /// The waiting peer and its room. Removes it if its connection is already dead.
    fn waiter(&mut self, now: Instant, context: &RoomContext) -> Option<(usize, usize)> {
        let room = self.waiting?;
        if self.rooms[room].usage.is_over(now) {
            self.end(room, CloseReason::LifespanExpired, context);
            return None;
        }
        let waiter = self.rooms[room].members.first().copied()?;
        if self.is_connected(waiter) {
            return Some((room, waiter));
        }
        self.remove_peer(waiter);
        self.remove_room(room, CloseReason::Normal, context);
        None
    }

    /// Adds `request` to the room of the waiting peer.
    fn pair(&mut self, (room, waiter): (usize, usize), request: JoinRequest) -> (usize, u64) {
        request.connection.send(&ControlMessage::Connected.frame());
        self.waiting = None;
        let seat = self.add_peer(room, request, None);
        self.send_control(waiter, &[ControlMessage::Open, ControlMessage::Connected]);
        seat
    }

    /// Pairs the peer that is left in `room` with the waiting one, or makes it wait.
    fn pair_again(&mut self, left: usize, room: usize, now: Instant, context: &RoomContext) {
        let Some((waiting, waiter)) = self.waiter(now, context) else {
            self.send_control(left, &[ControlMessage::Waiting]);
            self.waiting = Some(room);
            return;
        };
        let usage = self.rooms[room].usage.merge(self.rooms[waiting].usage);
        let moved = &mut self.rooms[room];
        moved.usage = usage;
        moved.members.push(waiter);
        self.peers[waiter].room = room;
        self.rooms[waiting].members.clear();
        self.remove_room(waiting, CloseReason::Normal, context);
        self.send_control(left, &[ControlMessage::Connected]);
        self.send_control(waiter, &[ControlMessage::Open, ControlMessage::Connected]);
    }

    fn send_control(&self, at: usize, messages: &[ControlMessage]) {
        messages.iter().for_each(|message| self.send(at, &message.frame()));
    }
}
