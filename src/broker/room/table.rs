//! What stands under one name: rooms and their peers, behind one lock, so that joining, leaving and relaying are one
//! step each.

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

/// A sender is not read from while more than this waits for one of its peers.
const DRAINED_BYTES: usize = 256 * 1024;

/// Names a lobby. Forms never meet under one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Channel(RoomId),
    Relay(Box<str>),
    Native(RoomId),
}

/// Who wants to join.
pub struct JoinRequest {
    pub connection: Arc<Connection>,
    pub sender: Arc<Sender>,
    /// What limits and the address rule count by.
    pub address: Option<IpAddr>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// The others have it, or will.
    Sent,
    /// Nobody else is there; it was not counted.
    NoPeer,
    /// The room has ended, perhaps by this message.
    Ended,
}

pub struct RoomTable {
    pub key: Key,
    /// It is to be taken off the map. Set under the lock.
    deleted: AtomicBool,
    state: Mutex<TableState>,
}

#[derive(Default)]
pub struct TableState {
    pub peers: Slab<Peer>,
    pub rooms: Slab<Room>,
    /// For the relay form: the room whose only peer waits for another.
    pub waiting: Option<usize>,
    last_token: u64,
}

pub struct Peer {
    /// Tells its seat from an older one at the same place.
    token: u64,
    pub room: usize,
    /// `None` while it is away.
    pub connection: Option<Arc<Connection>>,
    pub sender: Arc<Sender>,
    /// For our own form.
    pub member: Option<Member>,
}

pub struct Room {
    pub usage: Usage,
    pub members: Vec<usize>,
    /// How often somebody joined, and from where.
    pub joins: u64,
    pub addresses: Vec<IpAddr>,
    /// For our own form.
    pub native: Option<Box<Native>>,
    _place: RoomPermit,
}

impl Room {
    pub fn new(place: RoomPermit, now: Instant, caps: RoomCaps) -> Self {
        Self {
            usage: Usage::new(now, caps),
            members: Vec::new(),
            joins: 0,
            addresses: Vec::new(),
            native: None,
            _place: place,
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

    /// Marks a lobby without rooms, so that it is taken off the map. To be called under its lock.
    pub fn mark_if_empty(&self, state: &TableState) -> bool {
        let is_empty = state.rooms.is_empty();
        if is_empty {
            self.deleted.store(true, Ordering::Release);
        }
        is_empty
    }

    /// Takes that back. To be called under its lock and that of the names.
    pub fn undelete(&self) {
        self.deleted.store(false, Ordering::Release);
    }

    /// Hands a message of `bytes` to the others of the room; `frame` is given the message's number. Returns also
    /// whether the lobby is to be taken off the map.
    pub fn relay(
        &self,
        (at, token): (usize, u64),
        bytes: usize,
        now: Instant,
        shared: &RoomContext,
        frame: impl FnOnce(u64) -> Bytes,
    ) -> (Relayed, bool) {
        let mut state = self.lock();
        let Some(peer) = state.peer(at, token) else { return (Relayed::Ended, false) };
        let number = peer.room;
        let TableState { rooms, peers, .. } = &mut *state;
        let room = &mut rooms[number];
        // The channelserver form takes a message that nobody hears.
        if room.members.len() == 1 && !matches!(self.key, Key::Channel(_)) {
            return (Relayed::NoPeer, false);
        }
        if let Err(reason) = room.usage.charge(bytes, now) {
            state.end(number, reason, shared);
            return (Relayed::Ended, self.mark_if_empty(&state));
        }
        let seq = room.usage.exchanges();
        let frame = frame(seq);
        for other in room.members.iter().filter(|other| **other != at) {
            if let Some(connection) = &peers[*other].connection {
                // A connection that takes nothing any more gives up its seat itself.
                connection.send(&frame);
            }
        }
        if let (Some(native), Some(guest)) = (&mut room.native, &peers[at].member) {
            native.retain(seq, guest.number, frame, &shared.limits);
        }
        shared.counters.messages.increment(1);
        (Relayed::Sent, false)
    }

    /// Pending while too much waits for one of the others.
    pub fn poll_drained(&self, (at, token): (usize, u64), cx: &Context<'_>) -> Poll<()> {
        let state = self.lock();
        let Some(peer) = state.peer(at, token) else { return Poll::Ready(()) };
        let others = state.rooms[peer.room].members.iter().filter(|other| **other != at);
        let mut connections = others.filter_map(|other| state.peers[*other].connection.as_ref());
        let is_full = connections.any(|connection| connection.poll_drained(cx, DRAINED_BYTES).is_pending());
        if is_full { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Ends every room. Returns whether the lobby is to be taken off the map.
    pub fn end_all(&self, reason: CloseReason, shared: &RoomContext) -> bool {
        let mut state = self.lock();
        let rooms: Vec<usize> = state.rooms.iter().map(|(at, _)| at).collect();
        rooms.into_iter().for_each(|room| state.end(room, reason, shared));
        self.mark_if_empty(&state)
    }

    /// To be called once a second. `false` if nothing is left.
    pub fn sweep(&self, now: Instant, shared: &RoomContext) -> bool {
        let mut state = self.lock();
        let over = |(at, room): (usize, &Room)| room.usage.is_over(now).then_some(at);
        let over: Vec<usize> = state.rooms.iter().filter_map(over).collect();
        over.into_iter().for_each(|room| state.end(room, CloseReason::LifespanExpired, shared));
        if matches!(self.key, Key::Native(_)) {
            state.sweep_native(now, shared);
        }
        !self.mark_if_empty(&state)
    }
}

impl TableState {
    /// The peer of a seat, unless the seat is not its own any more.
    pub fn peer(&self, at: usize, token: u64) -> Option<&Peer> {
        self.peers.get(at).filter(|peer| peer.token == token)
    }

    /// Gives `joiner` a seat.
    pub fn sit(&mut self, room: usize, joiner: JoinRequest, guest: Option<Member>) -> (usize, u64) {
        let JoinRequest { connection, sender, address } = joiner;
        let token = self.new_token();
        let at = self.peers.insert(Peer { token, room, connection: Some(connection), sender, member: guest });
        let room = &mut self.rooms[room];
        room.members.push(at);
        room.joins += 1;
        if let Some(address) = address.filter(|address| !room.addresses.contains(address)) {
            room.addresses.push(address);
        }
        (at, token)
    }

    /// Puts another connection on a seat: the seat's older holder has nothing to do with it any more.
    pub fn reseat(&mut self, at: usize, joiner: JoinRequest) -> (Option<Arc<Connection>>, u64) {
        let token = self.new_token();
        let peer = &mut self.peers[at];
        peer.token = token;
        peer.sender = joiner.sender;
        (peer.connection.replace(joiner.connection), token)
    }

    /// Frees a seat; its room may be empty then. Returns the room.
    pub fn rise(&mut self, at: usize) -> usize {
        let Peer { room, .. } = self.peers.remove(at);
        self.rooms[room].members.retain(|member| *member != at);
        room
    }

    /// Ends a room: every peer is told why.
    pub fn end(&mut self, room: usize, reason: CloseReason, shared: &RoomContext) {
        for member in std::mem::take(&mut self.rooms[room].members) {
            if let Some(connection) = self.peers.remove(member).connection {
                connection.close(reason);
            }
        }
        self.remove_room(room, reason, shared);
    }

    /// Takes off a room without peers.
    pub fn remove_room(&mut self, room: usize, reason: CloseReason, shared: &RoomContext) {
        let mut removed = self.rooms.remove(room);
        if let Some(native) = &mut removed.native {
            native.drop_code(shared);
        }
        self.waiting = self.waiting.filter(|waiting| *waiting != room);
        shared.counters.closed(reason);
    }

    /// Whether a member can still be talked to.
    pub fn is_here(&self, at: usize) -> bool {
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
