//! Native rooms: opened before the first join, joined with a secret or short code, resumed after a lost connection.

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

/// A room without a lifespan is removed after this time without peers.
const EMPTY_ROOM_TTL: Duration = Duration::from_secs(300);

/// The options of a new room.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// 2 by default.
    pub max_seats: Option<usize>,
    pub code: Option<CodeFormat>,
    /// Codes that may be valid on all nodes, if there are several.
    pub codes_alive: u64,
}

/// A new room. No `Debug`: it holds secrets.
pub struct Opened {
    pub room: RoomId,
    pub join_secret: String,
    pub code: Option<String>,
    /// The end of the room in RFC 3339, if it has a lifespan.
    pub expires: Option<String>,
}

/// The credential of a client for a seat. No `Debug`: it holds secrets.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    Secret(&'a str),
    Code(&'a str),
    Resume {
        secret: &'a str,
        /// The newest message that the client received.
        seen: Option<u64>,
    },
}

/// The seat of a new member.
pub struct Joined {
    pub seat: (usize, u64),
    pub name: String,
}

impl RoomTable {
    /// Admits a client with the join secret or the code. Every failure before that proof gives the same reason.
    pub fn join_native(
        &self,
        id: RoomId,
        credential: Credential<'_>,
        request: JoinRequest,
        now: Instant,
        context: &RoomContext,
    ) -> Result<Joined, CloseReason> {
        let mut state = self.lock();
        let Some((number, room)) = state.open_room(now) else {
            return Err(refuse(&credential));
        };
        let native = room.native.as_mut().ok_or(CloseReason::UnknownRoom)?;
        let is_valid = match credential {
            Credential::Secret(secret) => native.join.is_of(secret),
            Credential::Code(text) => native.try_code(&code::canonical(text), now, context),
            Credential::Resume { secret, seen } => return state.resume(id, number, secret, seen, request),
        };
        if !is_valid {
            return Err(CloseReason::UnknownRoom);
        }
        if room.members.len() >= native.seats {
            return Err(CloseReason::ConnectionLimit);
        }
        // A code admits one peer, and none once the room has two.
        if matches!(credential, Credential::Code(_)) || room.members.len() + 1 >= 2 {
            native.drop_code(context);
        }
        let resume = new_secret().map_err(|_| CloseReason::RateLimited)?;
        native.members_total += 1;
        let member = Member {
            number: native.members_total,
            name: format!("p{}", native.members_total),
            resume: Digest::of(&resume),
            disconnected: None,
        };
        let (name, sender) = (member.name.clone(), request.sender.clone());
        let seat = state.add_peer(number, request, Some(member));
        state.announce_native(id, seat.0, &resume, None, &sender);
        Ok(Joined { seat, name })
    }

    /// With `for_good` the seat is removed, otherwise it is kept for a time.
    pub fn leave_native(&self, (at, token): (usize, u64), for_good: bool, context: &RoomContext) -> bool {
        let mut state = self.lock();
        if state.peer(at, token).is_some() {
            if for_good || context.limits.resume.is_zero() {
                state.evict(at, PeerLeft::Left);
            } else {
                let seq = state.rooms[state.peers[at].room].usage.exchanges();
                let peer = &mut state.peers[at];
                peer.connection = None;
                if let Some(member) = &mut peer.member {
                    member.disconnected = Some(Disconnected { seq, since: None });
                }
                state.send_peer_left(at, PeerLeft::Away);
            }
        }
        self.mark_if_empty(&state)
    }

    /// Ends the room for all peers.
    pub fn end_native(&self, (at, token): (usize, u64), context: &RoomContext) -> bool {
        let mut state = self.lock();
        if let Some(room) = state.peer(at, token).map(|peer| peer.room) {
            state.end(room, CloseReason::PeerLeft, context);
        }
        self.mark_if_empty(&state)
    }
}

impl TableState {
    fn open_room(&mut self, now: Instant) -> Option<(usize, &mut Room)> {
        self.rooms.iter_mut().find(|(_, room)| !room.usage.is_over(now))
    }

    /// Gives a seat to the holder of its secret, also while another connection has it.
    fn resume(
        &mut self,
        id: RoomId,
        room: usize,
        secret: &str,
        seen: Option<u64>,
        request: JoinRequest,
    ) -> Result<Joined, CloseReason> {
        let has_secret = |at: &usize| self.peers[*at].member.as_ref().is_some_and(|member| member.resume.is_of(secret));
        let at = self.rooms[room]
            .members
            .iter()
            .copied()
            .find(has_secret)
            .ok_or_else(|| refuse(&Credential::Secret(secret)))?;
        let sender = request.sender.clone();
        let (earlier, token) = self.replace_connection(at, request);
        if let Some(earlier) = earlier {
            earlier.close(CloseReason::ConnectionLimit);
        }
        let newest = self.rooms[room].usage.exchanges();
        let member = self.peers[at].member.as_mut().ok_or(CloseReason::UnknownRoom)?;
        let left_at = member.disconnected.take().map_or(newest, |disconnected| disconnected.seq);
        let seen = seen.unwrap_or(left_at);
        let (number, name) = (member.number, member.name.clone());
        let native = self.rooms[room].native.as_ref().ok_or(CloseReason::UnknownRoom)?;
        let (recovered, unread) = native.unread(seen, number, newest);
        let unread: Vec<Bytes> = unread.cloned().collect();
        self.announce_native(id, at, secret, Some(recovered), &sender);
        unread.iter().for_each(|frame| self.send(at, frame));
        Ok(Joined { seat: (at, token), name })
    }

    /// Sends `joined` to the peer, and `peer_joined` to the others.
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
        self.send_to_others(at, &RoomServerFrame::PeerJoined { peer: name, resumed: recovered.is_some(), sender });
    }

    fn peers_around(&self, at: usize) -> Peers<'_> {
        let name = |at: usize| self.peers[at].member.as_ref().map_or("", |member| member.name.as_str());
        let members = self.rooms[self.peers[at].room].members.iter().filter(|other| **other != at);
        let others = members.map(|other| {
            let peer = &self.peers[*other];
            Present { peer: name(*other), away: peer.connection.is_none(), sender: &peer.sender }
        });
        Peers { name: name(at), others: others.collect() }
    }

    fn send_peer_left(&self, at: usize, reason: PeerLeft) {
        let name = self.peers_around(at).name;
        self.send_to_others(at, &RoomServerFrame::PeerLeft { peer: name, reason });
    }

    fn send_to_others(&self, at: usize, reply: &RoomServerFrame<'_>) {
        let frame = text_frame(reply.to_json().as_bytes());
        let others = self.rooms[self.peers[at].room].members.iter().filter(|other| **other != at);
        others.for_each(|other| self.send(*other, &frame));
    }

    fn evict(&mut self, at: usize, reason: PeerLeft) {
        self.send_peer_left(at, reason);
        self.remove_peer(at);
    }

    /// Removes expired seats and codes, and unused rooms.
    pub fn sweep_native(&mut self, now: Instant, context: &RoomContext) {
        let mut expired = Vec::new();
        for (at, peer) in &mut self.peers {
            if let Some(disconnected) = peer.member.as_mut().and_then(|member| member.disconnected.as_mut()) {
                let since = *disconnected.since.get_or_insert(now);
                if now.saturating_duration_since(since) >= context.limits.resume {
                    expired.push(at);
                }
            }
        }
        expired.into_iter().for_each(|at| self.evict(at, PeerLeft::Timeout));
        let mut unused = Vec::new();
        for (number, room) in &mut self.rooms {
            let Some(native) = &mut room.native else { continue };
            if native.code.as_ref().is_some_and(|code| now >= code.expires) {
                native.drop_code(context);
            }
            if !room.members.is_empty() || !context.limits.lifespan.is_zero() {
                native.empty_since = None;
            } else if now.saturating_duration_since(*native.empty_since.get_or_insert(now)) >= EMPTY_ROOM_TTL {
                unused.push(number);
            }
        }
        unused.into_iter().for_each(|room| self.remove_room(room, CloseReason::Normal, context));
    }
}

/// A peer's name, and the other peers of its room.
struct Peers<'a> {
    name: &'a str,
    others: Vec<Present<'a>>,
}

/// The reason for a wrong credential, after the same work as a comparison.
pub fn refuse(credential: &Credential<'_>) -> CloseReason {
    let (Credential::Secret(secret) | Credential::Code(secret) | Credential::Resume { secret, .. }) = credential;
    let _ = Digest::NONE.is_of(secret);
    CloseReason::UnknownRoom
}
