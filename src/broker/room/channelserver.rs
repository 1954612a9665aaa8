//! The channelserver protocol: one room under one id, without join and leave events; it ends with its last peer.

use std::time::Instant;

use super::context::RoomContext;
use super::table::{JoinRequest, Room, RoomTable, TableState};
use crate::protocol::CloseReason;
use crate::protocol::compat::channelserver;
use crate::protocol::frame::room_frames::RoomId;
use crate::protocol::websocket::text_frame;

impl RoomTable {
    /// Opens the room of a new id.
    pub fn open_channel(&self, id: RoomId, room: Room, request: JoinRequest) -> (usize, u64) {
        let mut state = self.lock();
        let room = state.rooms.insert(room);
        welcome(&mut state, id, room, request)
    }

    pub fn join_channel(
        &self,
        id: RoomId,
        request: JoinRequest,
        now: Instant,
        context: &RoomContext,
    ) -> Result<(usize, u64), CloseReason> {
        let mut state = self.lock();
        let found = state.rooms.iter().find(|(_, room)| !room.usage.is_over(now));
        let Some((number, room)) = found else { return Err(CloseReason::UnknownRoom) };
        // Dead connections that were not cleaned up yet do not count towards the limit.
        let connected = room.members.iter().filter(|member| state.is_connected(**member)).count();
        if connected >= context.limits.max_connections {
            return Err(CloseReason::ConnectionLimit);
        }
        // After two joins, only addresses that joined before may join.
        let is_known = request.address.is_some_and(|address| room.addresses.contains(&address));
        if room.joins >= 2 && !is_known {
            return Err(CloseReason::Forbidden);
        }
        Ok(welcome(&mut state, id, number, request))
    }

    pub fn leave_channel(&self, (at, token): (usize, u64), context: &RoomContext) -> bool {
        let mut state = self.lock();
        if state.peer(at, token).is_some() {
            let room = state.remove_peer(at);
            if state.rooms[room].members.is_empty() {
                state.remove_room(room, CloseReason::Normal, context);
            }
        }
        self.mark_if_empty(&state)
    }
}

fn welcome(state: &mut TableState, id: RoomId, room: usize, request: JoinRequest) -> (usize, u64) {
    request.connection.send(&text_frame(channelserver::hello(id).as_bytes()));
    let addresses = &mut state.rooms[room].addresses;
    if let Some(address) = request.address.filter(|address| !addresses.contains(address)) {
        addresses.push(address);
    }
    state.add_peer(room, request, None)
}
