//! The rooms under one name and their peers. One lock makes joining, leaving and relaying one step each.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use slab::Slab;

use super::context::RoomContext;
use super::limits::{RoomCaps, Usage};
use super::native_state::{Member, Native};
use super::quota::RoomPermit;
use crate::broker::{Connection, Phase};
use crate::protocol::CloseReason;
use crate::protocol::frame::room_frames::{RoomId, Sender};

/// A sender is not read while more bytes than this wait for one of its peers.
const DRAINED_BYTES: usize = 256 * 1024;

/// The name of a table. The protocols have separate names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Channel(RoomId),
    Relay(Box<str>),
    Native(RoomId),
}

/// A client that requests to join.
pub struct JoinRequest {
    pub connection: Arc<Connection>,
    pub sender: Arc<Sender>,
    /// For limits by address, and the address rule of the channelserver protocol.
    pub address: Option<IpAddr>,
}

/// The result of relaying a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// The other peers have it, or it is in their outbox.
    Sent,
    /// The room has no other peer; the message was not counted.
    NoPeer,
    /// The room has ended, perhaps by this message.
    Ended,
}

pub struct RoomTable {
    pub key: Key,
    /// Marked for removal from the map. Set under the lock.
    deleted: AtomicBool,
    state: Mutex<TableState>,
}

#[derive(Default)]
pub struct TableState {
    pub peers: Slab<Peer>,
    pub rooms: Slab<Room>,
    /// In the relay protocol: the room whose only peer waits for another.
    pub waiting: Option<usize>,
    last_token: u64,
}

pub struct Peer {
    /// Distinguishes its seat from an older one in the same slot.
    token: u64,
    pub room: usize,
    /// `None` while it is disconnected.
    pub connection: Option<Arc<Connection>>,
    pub sender: Arc<Sender>,
    /// In native rooms.
    pub member: Option<Member>,
}

pub struct Room {
    pub usage: Usage,
    pub members: Vec<usize>,
    /// Number of joins.
    pub joins: u64,
    /// In the channelserver form: addresses that joined, two at most.
    pub addresses: Vec<IpAddr>,
    /// In native rooms.
    pub native: Option<Box<Native>>,
    _permit: RoomPermit,
}

impl Room {
    pub fn new(permit: RoomPermit, now: Instant, caps: RoomCaps) -> Self {
        Self {
            usage: Usage::new(now, caps),
            members: Vec::new(),
            joins: 0,
            addresses: Vec::new(),
            native: None,
            _permit: permit,
        }
    }
}

impl RoomTable {
    pub fn new(key: Key) -> Self {
        Self { key, deleted: AtomicBool::new(false), state: Mutex::default() }
    }

    pub fn lock(&self) -> MutexGuard<'_, TableState> {
        self.state.lock()
    }

    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Marks a table without rooms for removal from the map. To be called under its lock.
    pub fn mark_if_empty(&self, state: &TableState) -> bool {
        let is_empty = state.rooms.is_empty();
        if is_empty {
            self.deleted.store(true, Ordering::Release);
        }
        is_empty
    }

    /// Reverts the mark. To be called under its lock and that of the names.
    pub fn undelete(&self) {
        self.deleted.store(false, Ordering::Release);
    }

    /// Sends a message of `bytes` to the other peers of the room; `frame` gets its sequence number. Also returns whether
    /// the table has to be removed from the map.
    pub fn relay(
        &self,
        (at, token): (usize, u64),
        bytes: usize,
        now: Instant,
        context: &RoomContext,
        frame: impl FnOnce(u64) -> Bytes,
    ) -> (Relayed, bool) {
        let mut state = self.lock();
        let Some(peer) = state.peer(at, token) else { return (Relayed::Ended, false) };
        let number = peer.room;
        let TableState { rooms, peers, .. } = &mut *state;
        let room = &mut rooms[number];
        // The channelserver protocol counts a message without a receiver.
        if room.members.len() == 1 && !matches!(self.key, Key::Channel(_)) {
            return (Relayed::NoPeer, false);
        }
        if let Err(reason) = room.usage.charge(bytes, now) {
            state.end(number, reason, context);
            return (Relayed::Ended, self.mark_if_empty(&state));
        }
        let seq = room.usage.exchanges();
        let frame = frame(seq);
        for other in room.members.iter().filter(|other| **other != at) {
            if let Some(connection) = &peers[*other].connection {
                // A closed connection leaves its seat itself.
                connection.send(&frame);
            }
        }
        if let (Some(native), Some(member)) = (&mut room.native, &peers[at].member) {
            native.retain(seq, member.number, frame, &context.limits);
        }
        context.counters.messages.increment(1);
        (Relayed::Sent, false)
    }

    /// Pending while too much waits for one of the other peers.
    pub fn poll_drained(&self, (at, token): (usize, u64), cx: &Context<'_>) -> Poll<()> {
        let state = self.lock();
        let Some(peer) = state.peer(at, token) else { return Poll::Ready(()) };
        let others = state.rooms[peer.room].members.iter().filter(|other| **other != at);
        let mut connections = others.filter_map(|other| state.peers[*other].connection.as_ref());
        let has_backlog = connections.any(|connection| connection.poll_drained(cx, DRAINED_BYTES).is_pending());
        if has_backlog { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Ends every room. Returns whether the table has to be removed from the map.
    pub fn end_all(&self, reason: CloseReason, context: &RoomContext) -> bool {
        let mut state = self.lock();
        let rooms: Vec<usize> = state.rooms.iter().map(|(at, _)| at).collect();
        rooms.into_iter().for_each(|room| state.end(room, reason, context));
        self.mark_if_empty(&state)
    }

    /// To be called once a second. `false` if no room is left.
    pub fn sweep(&self, now: Instant, context: &RoomContext) -> bool {
        let mut state = self.lock();
        let expired = |(at, room): (usize, &Room)| room.usage.is_over(now).then_some(at);
        let expired: Vec<usize> = state.rooms.iter().filter_map(expired).collect();
        expired.into_iter().for_each(|room| state.end(room, CloseReason::LifespanExpired, context));
        if matches!(self.key, Key::Native(_)) {
            state.sweep_native(now, context);
        }
        !self.mark_if_empty(&state)
    }
}

impl TableState {
    /// The peer of a seat; `None` if the seat was given to another connection or removed.
    pub fn peer(&self, at: usize, token: u64) -> Option<&Peer> {
        self.peers.get(at).filter(|peer| peer.token == token)
    }

    /// Adds a peer to a room. Returns its seat.
    pub fn add_peer(&mut self, room: usize, request: JoinRequest, member: Option<Member>) -> (usize, u64) {
        let JoinRequest { connection, sender, address: _ } = request;
        let token = self.new_token();
        let at = self.peers.insert(Peer { token, room, connection: Some(connection), sender, member });
        let room = &mut self.rooms[room];
        room.members.push(at);
        room.joins += 1;
        (at, token)
    }

    /// Replaces the connection of a seat, and invalidates the seat of the older one.
    pub fn replace_connection(&mut self, at: usize, request: JoinRequest) -> (Option<Arc<Connection>>, u64) {
        let token = self.new_token();
        let peer = &mut self.peers[at];
        peer.token = token;
        peer.sender = request.sender;
        (peer.connection.replace(request.connection), token)
    }

    /// Removes a peer. Returns its room, which may be empty then.
    pub fn remove_peer(&mut self, at: usize) -> usize {
        let Peer { room, .. } = self.peers.remove(at);
        self.rooms[room].members.retain(|member| *member != at);
        room
    }

    /// Ends a room: closes every peer with the reason.
    pub fn end(&mut self, room: usize, reason: CloseReason, context: &RoomContext) {
        for member in std::mem::take(&mut self.rooms[room].members) {
            if let Some(connection) = self.peers.remove(member).connection {
                connection.close(reason);
            }
        }
        self.remove_room(room, reason, context);
    }

    /// Removes a room without peers.
    pub fn remove_room(&mut self, room: usize, reason: CloseReason, context: &RoomContext) {
        let mut removed = self.rooms.remove(room);
        if let Some(native) = &mut removed.native {
            native.drop_code(context);
        }
        self.waiting = self.waiting.filter(|waiting| *waiting != room);
        context.counters.closed(reason);
    }

    /// Whether a peer has an open connection.
    pub fn is_connected(&self, at: usize) -> bool {
        self.peers[at].connection.as_ref().is_some_and(|connection| connection.phase() == Phase::Open)
    }

    pub fn send(&self, at: usize, frame: &Bytes) {
        if let Some(connection) = &self.peers[at].connection {
            connection.send(frame);
        }
    }

    fn new_token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }
}
