//! Our own form: a room is opened before anybody joins, joining takes a secret or a short code, and a seat is kept for
//! a peer whose connection was lost.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::context::RoomContext;
use super::native_state::{Disconnected, Member};
use super::secret::{Digest, new_secret};
use super::table::{JoinRequest, Room, RoomTable, TableState};
use super::{CodeFormat, code};
use crate::protocol::CloseReason;
use crate::protocol::frame::room_frames::{PeerLeft, Present, RoomId, RoomServerFrame, Sender};
use crate::protocol::websocket::text_frame;

/// A room that has no lifespan is forgotten when nobody was in it for so long.
const EMPTY_ROOM_TTL: Duration = Duration::from_secs(300);

/// What somebody who opens a room asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// 2 if it is not said.
    pub max_seats: Option<usize>,
    pub code: Option<CodeFormat>,
}

/// A room that was opened. No `Debug`: it holds secrets.
pub struct Opened {
    pub room: RoomId,
    pub join_secret: String,
    pub code: Option<String>,
    /// When the room ends, if it does.
    pub expires: Option<String>,
}

/// What a client shows for a seat. No `Debug`: it holds secrets.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    Secret(&'a str),
    Code(&'a str),
    Resume {
        secret: &'a str,
        /// The newest message that the client has seen.
        seen: Option<u64>,
    },
}

/// A seat in such a room, as its holder knows it.
pub struct Joined {
    pub seat: (usize, u64),
    pub name: String,
}

impl RoomTable {
    /// Admits a client with the join secret or the code. Until one of them was right every answer is the same.
    pub fn join_native(
        &self,
        id: RoomId,
        claim: Credential<'_>,
        joiner: JoinRequest,
        now: Instant,
        shared: &RoomContext,
    ) -> Result<Joined, CloseReason> {
        let mut state = self.lock();
        let Some((number, room)) = state.open_room(now) else {
            return Err(refuse(&claim));
        };
        let native = room.native.as_mut().ok_or(CloseReason::UnknownRoom)?;
        let is_right = match claim {
            Credential::Secret(secret) => native.join.is_of(secret),
            Credential::Code(written) => native.try_code(&code::canonical(written), now, shared),
            Credential::Resume { secret, seen } => return state.resume(id, number, secret, seen, joiner),
        };
        if !is_right {
            return Err(CloseReason::UnknownRoom);
        }
        if room.members.len() >= native.seats {
            return Err(CloseReason::ConnectionLimit);
        }
        // A code is good for one pair.
        if matches!(claim, Credential::Code(_)) || room.members.len() + 1 >= 2 {
            native.drop_code(shared);
        }
        let resume = new_secret().map_err(|_| CloseReason::RateLimited)?;
        native.members_total += 1;
        let guest = Member {
            number: native.members_total,
            name: format!("p{}", native.members_total),
            resume: Digest::of(&resume),
            disconnected: None,
        };
        let (name, sender) = (guest.name.clone(), joiner.sender.clone());
        let seat = state.sit(number, joiner, Some(guest));
        state.announce_native(id, seat.0, &resume, None, &sender);
        Ok(Joined { seat, name })
    }

    /// `said`: the peer gave its seat up; otherwise it is kept for a while.
    pub fn leave_native(&self, (at, token): (usize, u64), said: bool, shared: &RoomContext) -> bool {
        let mut state = self.lock();
        if state.peer(at, token).is_some() {
            if said || shared.limits.resume.is_zero() {
                state.dismiss(at, PeerLeft::Left);
            } else {
                let seq = state.rooms[state.peers[at].room].usage.exchanges();
                let peer = &mut state.peers[at];
                peer.connection = None;
                if let Some(guest) = &mut peer.member {
                    guest.disconnected = Some(Disconnected { seq, since: None });
                }
                state.tell_left(at, PeerLeft::Away);
            }
        }
        self.mark_if_empty(&state)
    }

    /// Ends the room for everybody.
    pub fn end_native(&self, (at, token): (usize, u64), shared: &RoomContext) -> bool {
        let mut state = self.lock();
        if let Some(room) = state.peer(at, token).map(|peer| peer.room) {
            state.end(room, CloseReason::PeerLeft, shared);
        }
        self.mark_if_empty(&state)
    }
}

impl TableState {
    fn open_room(&mut self, now: Instant) -> Option<(usize, &mut Room)> {
        self.rooms.iter_mut().find(|(_, room)| !room.usage.is_over(now))
    }

    /// Gives a seat back to who knows its secret, also while another connection holds it.
    fn resume(
        &mut self,
        id: RoomId,
        room: usize,
        secret: &str,
        seen: Option<u64>,
        joiner: JoinRequest,
    ) -> Result<Joined, CloseReason> {
        let is_its = |at: &usize| self.peers[*at].member.as_ref().is_some_and(|guest| guest.resume.is_of(secret));
        let at =
            self.rooms[room].members.iter().copied().find(is_its).ok_or_else(|| refuse(&Credential::Secret(secret)))?;
        let sender = joiner.sender.clone();
        let (before, token) = self.reseat(at, joiner);
        if let Some(before) = before {
            before.close(CloseReason::ConnectionLimit);
        }
        let newest = self.rooms[room].usage.exchanges();
        let guest = self.peers[at].member.as_mut().ok_or(CloseReason::UnknownRoom)?;
        let left_at = guest.disconnected.take().map_or(newest, |away| away.seq);
        let seen = seen.unwrap_or(left_at);
        let (number, name) = (guest.number, guest.name.clone());
        let native = self.rooms[room].native.as_ref().ok_or(CloseReason::UnknownRoom)?;
        let (recovered, unread) = native.unread(seen, number, newest);
        let unread: Vec<Bytes> = unread.cloned().collect();
        self.announce_native(id, at, secret, Some(recovered), &sender);
        unread.iter().for_each(|frame| self.send(at, frame));
        Ok(Joined { seat: (at, token), name })
    }

    /// Tells a peer that it has its seat, and the others that it is there.
    fn announce_native(&self, id: RoomId, at: usize, resume: &str, recovered: Option<bool>, sender: &Sender) {
        let Peers { name, others } = self.peers_around(at);
        let room = &self.rooms[self.peers[at].room];
        let joined = RoomServerFrame::Joined {
            room: id.to_string(),
            peer: name,
            resume,
            recovered,
            peers: others,
            expires: room.native.as_ref().and_then(|native| native.expires.as_deref()),
        };
        self.send(at, &text_frame(joined.to_json().as_bytes()));
        self.tell_others(at, &RoomServerFrame::PeerJoined { peer: name, resumed: recovered.is_some(), sender });
    }

    fn peers_around(&self, at: usize) -> Peers<'_> {
        let name = |at: usize| self.peers[at].member.as_ref().map_or("", |guest| guest.name.as_str());
        let members = self.rooms[self.peers[at].room].members.iter().filter(|other| **other != at);
        let others = members.map(|other| {
            let peer = &self.peers[*other];
            Present { peer: name(*other), away: peer.connection.is_none(), sender: &peer.sender }
        });
        Peers { name: name(at), others: others.collect() }
    }

    fn tell_left(&self, at: usize, reason: PeerLeft) {
        let name = self.peers_around(at).name;
        self.tell_others(at, &RoomServerFrame::PeerLeft { peer: name, reason });
    }

    fn tell_others(&self, at: usize, reply: &RoomServerFrame<'_>) {
        let frame = text_frame(reply.to_json().as_bytes());
        let others = self.rooms[self.peers[at].room].members.iter().filter(|other| **other != at);
        others.for_each(|other| self.send(*other, &frame));
    }

    fn dismiss(&mut self, at: usize, reason: PeerLeft) {
        self.tell_left(at, reason);
        self.rise(at);
    }

    /// Gives up seats and codes whose time is over, and rooms that nobody uses.
    pub fn sweep_native(&mut self, now: Instant, shared: &RoomContext) {
        let mut gone = Vec::new();
        for (at, peer) in &mut self.peers {
            if let Some(away) = peer.member.as_mut().and_then(|guest| guest.disconnected.as_mut()) {
                let since = *away.since.get_or_insert(now);
                if now.saturating_duration_since(since) >= shared.limits.resume {
                    gone.push(at);
                }
            }
        }
        gone.into_iter().for_each(|at| self.dismiss(at, PeerLeft::Timeout));
        let mut unused = Vec::new();
        for (number, room) in &mut self.rooms {
            let Some(native) = &mut room.native else { continue };
            if native.code.as_ref().is_some_and(|code| now >= code.expires) {
                native.drop_code(shared);
            }
            if !room.members.is_empty() || !shared.limits.lifespan.is_zero() {
                native.empty_since = None;
            } else if now.saturating_duration_since(*native.empty_since.get_or_insert(now)) >= EMPTY_ROOM_TTL {
                unused.push(number);
            }
        }
        unused.into_iter().for_each(|room| self.remove_room(room, CloseReason::Normal, shared));
    }
}

/// A peer's name, and the others of its room.
struct Peers<'a> {
    name: &'a str,
    others: Vec<Present<'a>>,
}

/// The answer to whoever showed nothing that is right, after the same work as a comparison.
pub fn refuse(claim: &Credential<'_>) -> CloseReason {
    let (Credential::Secret(secret) | Credential::Code(secret) | Credential::Resume { secret, .. }) = claim;
    let _ = Digest::NONE.is_of(secret);
    CloseReason::UnknownRoom
}
