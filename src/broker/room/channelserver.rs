//! The channelserver form: one room under one id, in which everybody hears all others. Nobody is told who comes and
//! goes, and the room is gone with its last peer.

use std::time::Instant;

use super::context::RoomContext;
use super::table::{JoinRequest, Room, RoomTable, TableState};
use crate::protocol::CloseReason;
use crate::protocol::compat::channelserver;
use crate::protocol::frame::room_frames::RoomId;
use crate::protocol::websocket::text_frame;

impl RoomTable {
    /// Opens the room of a new id.
    pub fn open_channel(&self, id: RoomId, room: Room, joiner: JoinRequest) -> (usize, u64) {
        let mut state = self.lock();
        let room = state.rooms.insert(room);
        welcome(&mut state, id, room, joiner)
    }

    pub fn join_channel(
        &self,
        id: RoomId,
        joiner: JoinRequest,
        now: Instant,
        shared: &RoomContext,
    ) -> Result<(usize, u64), CloseReason> {
        let mut state = self.lock();
        let found = state.rooms.iter().find(|(_, room)| !room.usage.is_over(now));
        let Some((number, room)) = found else { return Err(CloseReason::UnknownRoom) };
        // Those whose end is not noticed yet are not in the way of those who come back.
        let here = room.members.iter().filter(|member| state.is_here(**member)).count();
        if here >= shared.limits.max_connections {
            return Err(CloseReason::ConnectionLimit);
        }
        // Two who have met stay among themselves, wherever they reconnect from that was seen before.
        let is_known = joiner.address.is_some_and(|address| room.addresses.contains(&address));
        if room.joins >= 2 && !is_known {
            return Err(CloseReason::Forbidden);
        }
        Ok(welcome(&mut state, id, number, joiner))
    }

    pub fn leave_channel(&self, (at, token): (usize, u64), shared: &RoomContext) -> bool {
        let mut state = self.lock();
        if state.peer(at, token).is_some() {
            let room = state.rise(at);
            if state.rooms[room].members.is_empty() {
                state.remove_room(room, CloseReason::Normal, shared);
            }
        }
        self.mark_if_empty(&state)
    }
}

fn welcome(state: &mut TableState, id: RoomId, room: usize, joiner: JoinRequest) -> (usize, u64) {
    joiner.connection.send(&text_frame(channelserver::hello(id).as_bytes()));
    state.sit(room, joiner, None)
}
