//! Every room of this node, by name.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::code::{Codes, RoomCode, canonical, new_code};
use super::context::RoomContext;
use super::counters::RoomCounters;
use super::limits::RoomLimits;
use super::map::RoomMap;
use super::native::{Credential, Joined, OpenOptions, Opened, refuse};
use super::native_state::Native;
use super::quota::RoomQuota;
use super::seat::Seat;
use super::secret::{Digest, new_id, new_secret};
use super::table::{JoinRequest, Key, Room, RoomTable};
use crate::broker::Now;
use crate::protocol::frame::room_frames::RoomId;
use crate::protocol::{CloseReason, ErrorCode, Refusal};

/// Tries for a code that no room has: with 100,000 codes of six digits alive, one in ten fails.
const MAX_CODE_DRAWS: usize = 16;

/// A cheap handle; every method is synchronous and no lock is held when it returns.
#[derive(Clone)]
pub struct Rooms(pub(super) Arc<RoomMap>);

impl Rooms {
    /// Registers its metrics with the current recorder.
    pub fn new(limits: RoomLimits) -> Self {
        let counters = Arc::new(RoomCounters::default());
        let ledger = RoomQuota::new(&limits, counters.clone());
        let shared = RoomContext { limits, counters, quota: ledger, codes: Mutex::new(Codes::default()) };
        Self(Arc::new(RoomMap::new(shared)))
    }

    /// A room of the channelserver form under a new id ([`new_id`]). Errors are the reason to close with.
    pub fn open_channel(&self, id: RoomId, joiner: JoinRequest, now: Instant) -> Result<Seat, CloseReason> {
        let place = self.0.context.quota.open(joiner.address).ok_or(CloseReason::RateLimited)?;
        let lobby = Arc::new(RoomTable::new(Key::Channel(id)));
        // The lock of the names is held: whoever is told of the room may send somebody else there at once.
        let mut shard = self.0.stripe(&lobby.key).lock();
        let seat = lobby.open_channel(id, Room::new(place, now, self.0.context.limits.caps()), joiner);
        shard.insert(lobby.key.clone(), lobby.clone());
        drop(shard);
        Ok(self.seat(lobby, seat, String::new()))
    }

    pub fn join_channel(&self, id: RoomId, joiner: JoinRequest, now: Instant) -> Result<Seat, CloseReason> {
        let lobby = self.0.find(&Key::Channel(id)).ok_or(CloseReason::UnknownRoom)?;
        let seat = lobby.join_channel(id, joiner, now, &self.0.context)?;
        Ok(self.seat(lobby, seat, String::new()))
    }

    /// Joins whoever waits under an id of the relay form, which opens no room. Gives `joiner` back if nobody does.
    pub fn join_waiting(&self, id: &str, joiner: JoinRequest, now: Instant) -> Result<Seat, JoinRequest> {
        // A lobby in which somebody waits is on the map and stays there.
        let Some(lobby) = self.0.find(&Key::Relay(id.into())) else { return Err(joiner) };
        let seat = lobby.join_waiting(joiner, now, &self.0.context)?;
        Ok(self.seat(lobby, seat, String::new()))
    }

    /// Joins or begins to wait under an id of the relay form.
    pub fn join_relay(&self, id: &str, joiner: JoinRequest, now: Instant) -> Result<Seat, CloseReason> {
        let key = Key::Relay(id.into());
        // The lock of the names is held, so that nobody takes the lobby off meanwhile.
        let mut shard = self.0.stripe(&key).lock();
        let lobby = match shard.get(&key) {
            Some(lobby) => lobby.clone(),
            None => {
                let lobby = Arc::new(RoomTable::new(key.clone()));
                shard.insert(key, lobby.clone());
                lobby
            }
        };
        match lobby.join_relay(joiner, now, &self.0.context) {
            Some(seat) => Ok(self.seat(lobby.clone(), seat, String::new())),
            None => {
                if lobby.is_deleted() {
                    shard.remove(&lobby.key);
                    self.0.notify_deleted(&lobby.key);
                }
                Err(CloseReason::RateLimited)
            }
        }
    }

    /// Opens a room of our own form, which nobody has joined yet.
    pub fn open(&self, options: OpenOptions, address: Option<IpAddr>, now: Now) -> Result<Opened, Refusal> {
        let RoomContext { limits, quota: ledger, .. } = &self.0.context;
        let seats = options.max_seats.unwrap_or(2);
        if !(2..=limits.max_seats).contains(&seats) {
            return Err(Refusal::new(ErrorCode::Malformed, format!("`max_seats` is 2 to {}", limits.max_seats)));
        }
        let place = ledger
            .open(address)
            .ok_or_else(|| Refusal::new(ErrorCode::LimitReached, "there are as many rooms as there may be"))?;
        let (id, join_secret) = (new_id()?, new_secret()?);
        let code = options.code.map(|form| self.new_code(form, id, now.monotonic)).transpose()?;
        let expires = expiry(now, limits.lifespan);
        let mut room = Room::new(place, now.monotonic, limits.caps());
        let text = code.as_ref().map(|code| code.text.clone());
        room.native = Some(Box::new(Native::new(Digest::of(&join_secret), seats, code, expires.clone())));
        let lobby = RoomTable::new(Key::Native(id));
        lobby.lock().rooms.insert(room);
        self.0.insert(lobby);
        Ok(Opened { room: id, join_secret, code: text, expires })
    }

    fn new_code(&self, form: super::CodeFormat, room: RoomId, now: Instant) -> Result<RoomCode, Refusal> {
        let limits = &self.0.context.limits;
        for _ in 0..MAX_CODE_DRAWS {
            let text = new_code(form)?;
            if self.0.context.codes.lock().insert(&text, room) {
                let (digest, expires) = (Digest::of(&text), now + limits.code);
                return Ok(RoomCode { digest, text, expires, tries_left: limits.code_attempts });
            }
        }
        Err(Refusal::new(ErrorCode::LimitReached, "there are too many codes at the moment"))
    }

    /// Admits a client to a room of our own form; a code alone names its room.
    pub fn join_native(
        &self,
        room: Option<RoomId>,
        claim: Credential<'_>,
        joiner: JoinRequest,
        now: Instant,
    ) -> Result<Seat, CloseReason> {
        let shared = &self.0.context;
        let address = joiner.address;
        let mut room = room;
        if let Credential::Code(written) = claim {
            let mut codes = shared.codes.lock();
            if !codes.may_try(address, now) {
                return Err(CloseReason::RateLimited);
            }
            room = room.or_else(|| codes.room(&canonical(written)));
        }
        let lobby = room.and_then(|id| Some((id, self.0.find(&Key::Native(id))?)));
        let taken = match lobby {
            Some((id, lobby)) => lobby.join_native(id, claim, joiner, now, shared).map(|taken| (lobby, taken)),
            None => Err(refuse(&claim)),
        };
        if matches!((&claim, &taken), (Credential::Code(_), Err(_))) {
            shared.codes.lock().count_wrong(address);
        }
        let (lobby, Joined { seat, name }) = taken?;
        Ok(self.seat(lobby, seat, name))
    }

    /// To be called once a second: ends what has outlived its lifespan and gives up seats that nobody came back to.
    pub fn sweep(&self, now: Instant) {
        self.0.retain(|table| table.sweep(now, &self.0.context));
    }

    /// Sets the callback for a name that stands for no room any more. It must not block, nor call back. To be called
    /// once.
    pub fn on_deleted(&self, on_deleted: impl Fn(&Key) + Send + Sync + 'static) {
        self.0.on_deleted(Box::new(on_deleted));
    }

    /// Whether a name stands for a room, or for several.
    pub fn has(&self, key: &Key) -> bool {
        self.0.find(key).is_some()
    }

    /// Whether a short code opens a room.
    pub fn has_code(&self, code: &str) -> bool {
        self.0.context.codes.lock().room(&canonical(code)).is_some()
    }

    /// All names that stand for a room at this moment.
    pub fn keys(&self) -> Vec<Key> {
        self.0.keys()
    }

    /// Ends whatever stands under a name.
    pub fn end(&self, key: &Key, reason: CloseReason) {
        let Some(lobby) = self.0.find(key) else { return };
        if lobby.end_all(reason, &self.0.context) {
            self.0.remove(&lobby);
        }
    }

    /// Rooms at this moment.
    pub fn count(&self) -> u64 {
        self.0.context.quota.count()
    }

    /// Rooms at this moment that an address opened, if that is counted.
    pub fn opened_by(&self, address: IpAddr) -> u64 {
        self.0.context.quota.opened_by(address)
    }

    fn seat(&self, lobby: Arc<RoomTable>, (at, token): (usize, u64), name: String) -> Seat {
        Seat::new(self.0.clone(), lobby, (at, token), name)
    }
}

/// When a room that is opened now ends, as people and protocols write it.
fn expiry(now: Now, lifespan: Duration) -> Option<String> {
    if lifespan.is_zero() {
        return None;
    }
    Some(crate::broker::channel::session::rfc3339(now.unix().saturating_add(lifespan.as_secs())))
}
