//! The rooms of this node: opening, joining, sweeping.

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

/// Random codes to try until one is free: codes are so long that hardly any is taken.
const MAX_CODE_DRAWS: usize = 4;

/// A cheap handle; every method is synchronous and no lock is held when it returns.
#[derive(Clone)]
pub struct Rooms(pub(super) Arc<RoomMap>);

impl Rooms {
    /// Registers its metrics with the current recorder.
    pub fn new(limits: RoomLimits) -> Self {
        let counters = Arc::new(RoomCounters::default());
        let quota = RoomQuota::new(&limits, counters.clone());
        let context = RoomContext { limits, counters, quota, codes: Mutex::new(Codes::default()) };
        Self(Arc::new(RoomMap::new(context)))
    }

    /// Opens a room of the channelserver protocol under a new id ([`new_id`]). Errors are the reason to close with.
    pub fn open_channel(&self, id: RoomId, request: JoinRequest, now: Instant) -> Result<Seat, CloseReason> {
        let permit = self.0.context.quota.open(request.address).ok_or(CloseReason::RateLimited)?;
        let table = Arc::new(RoomTable::new(Key::Channel(id)));
        // Under the lock of the names: the first peer learns the id here, and another client may join with it at once.
        let mut stripe = self.0.stripe(&table.key).lock();
        let seat = table.open_channel(id, Room::new(permit, now, self.0.context.limits.caps()), request);
        stripe.insert(table.key.clone(), table.clone());
        drop(stripe);
        Ok(self.seat(table, seat, String::new()))
    }

    pub fn join_channel(&self, id: RoomId, request: JoinRequest, now: Instant) -> Result<Seat, CloseReason> {
        let table = self.0.find(&Key::Channel(id)).ok_or(CloseReason::UnknownRoom)?;
        let seat = table.join_channel(id, request, now, &self.0.context)?;
        Ok(self.seat(table, seat, String::new()))
    }

    /// Joins the waiting peer under an id of the relay protocol, without a new room. Returns `request` if no peer waits.
    pub fn join_waiting(&self, id: &str, request: JoinRequest, now: Instant) -> Result<Seat, JoinRequest> {
        // A table with a waiting peer is on the map and stays there.
        let Some(table) = self.0.find(&Key::Relay(id.into())) else { return Err(request) };
        let seat = table.join_waiting(request, now, &self.0.context)?;
        Ok(self.seat(table, seat, String::new()))
    }

    /// Joins the waiting peer, or waits, under an id of the relay protocol.
    pub fn join_relay(&self, id: &str, request: JoinRequest, now: Instant) -> Result<Seat, CloseReason> {
        let key = Key::Relay(id.into());
        // Under the lock of the names, so that the table is not removed meanwhile.
        let mut stripe = self.0.stripe(&key).lock();
        let table = match stripe.get(&key) {
            Some(table) => table.clone(),
            None => {
                let table = Arc::new(RoomTable::new(key.clone()));
                stripe.insert(key, table.clone());
                table
            }
        };
        match table.join_relay(request, now, &self.0.context) {
            Some(seat) => Ok(self.seat(table.clone(), seat, String::new())),
            None => {
                if table.is_deleted() {
                    stripe.remove(&table.key);
                    self.0.notify_deleted(&table.key);
                }
                Err(CloseReason::RateLimited)
            }
        }
    }

    /// Opens a native room without peers.
    pub fn open(&self, options: OpenOptions, address: Option<IpAddr>, now: Now) -> Result<Opened, Refusal> {
        let RoomContext { limits, quota, .. } = &self.0.context;
        let seats = options.max_seats.unwrap_or(2);
        if !(2..=limits.max_seats).contains(&seats) {
            return Err(Refusal::new(ErrorCode::Malformed, format!("`max_seats` is 2 to {}", limits.max_seats)));
        }
        let permit = quota.open(address).ok_or_else(|| {
            Refusal::new(ErrorCode::LimitReached, "room limit reached (max_rooms or max_rooms_per_address)")
        })?;
        let (id, join_secret) = (new_id()?, new_secret()?);
        let code =
            options.code.map(|format| self.new_code(format, options.codes_alive, id, now.monotonic)).transpose()?;
        let expires = expiry(now, limits.lifespan);
        let mut room = Room::new(permit, now.monotonic, limits.caps());
        let text = code.as_ref().map(|code| code.text.clone());
        room.native = Some(Box::new(Native::new(Digest::of(&join_secret), seats, code, expires.clone())));
        let table = RoomTable::new(Key::Native(id));
        table.lock().rooms.insert(room);
        self.0.insert(table);
        Ok(Opened { room: id, join_secret, code: text, expires })
    }

    fn new_code(&self, format: super::CodeFormat, alive: u64, room: RoomId, now: Instant) -> Result<RoomCode, Refusal> {
        let limits = &self.0.context.limits;
        for _ in 0..MAX_CODE_DRAWS {
            let text = new_code(format, alive.max(self.0.context.codes.lock().count() + 1))?;
            if self.0.context.codes.lock().insert(&text, room) {
                let (digest, expires) = (Digest::of(&text), now + limits.code);
                return Ok(RoomCode { digest, text, expires, tries_left: limits.code_attempts });
            }
        }
        Err(Refusal::new(ErrorCode::LimitReached, "no free room code, retry later"))
    }

    /// Admits a client to a native room. Without `room`, the code determines it.
    pub fn join_native(
        &self,
        room: Option<RoomId>,
        credential: Credential<'_>,
        request: JoinRequest,
        now: Instant,
    ) -> Result<Seat, CloseReason> {
        let context = &self.0.context;
        let address = request.address;
        let mut room = room;
        if let Credential::Code(text) = credential {
            let mut codes = context.codes.lock();
            codes.wrong.counts(address, now).delay().ok_or(CloseReason::RateLimited)?;
            room = room.or_else(|| codes.room(&canonical(text)));
        }
        let table = room.and_then(|id| Some((id, self.0.find(&Key::Native(id))?)));
        let joined = match table {
            Some((id, table)) => table.join_native(id, credential, request, now, context).map(|joined| (table, joined)),
            None => Err(refuse(&credential)),
        };
        if matches!((&credential, &joined), (Credential::Code(_), Err(_))) {
            context.codes.lock().wrong.count(address, now);
        }
        let (table, Joined { seat, name }) = joined?;
        Ok(self.seat(table, seat, name))
    }

    /// How long a client has to wait before it may try a code; `None` if it may not.
    pub fn code_attempt_delay(&self, address: Option<IpAddr>, now: Instant) -> Option<Duration> {
        self.0.context.codes.lock().wrong.counts(address, now).delay()
    }

    /// To be called once a second: ends rooms past their lifespan and removes seats that were not resumed.
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

    /// Whether a room has this short code.
    pub fn has_code(&self, code: &str) -> bool {
        self.0.context.codes.lock().room(&canonical(code)).is_some()
    }

    /// All names that stand for a room.
    pub fn keys(&self) -> Vec<Key> {
        self.0.keys()
    }

    /// Ends all rooms under a name.
    pub fn end(&self, key: &Key, reason: CloseReason) {
        let Some(table) = self.0.find(key) else { return };
        if table.end_all(reason, &self.0.context) {
            self.0.remove(&table);
        }
    }

    /// Number of open rooms.
    pub fn count(&self) -> u64 {
        self.0.context.quota.count()
    }

    /// Open rooms of an address; 0 without a limit by address.
    pub fn opened_by(&self, address: IpAddr) -> u64 {
        self.0.context.quota.opened_by(address)
    }

    fn seat(&self, table: Arc<RoomTable>, (at, token): (usize, u64), name: String) -> Seat {
        Seat::new(self.0.clone(), table, (at, token), name)
    }
}

/// The end of a room that is opened now, in RFC 3339.
fn expiry(now: Now, lifespan: Duration) -> Option<String> {
    if lifespan.is_zero() {
        return None;
    }
    Some(crate::broker::channel::session::rfc3339(now.unix().saturating_add(lifespan.as_secs())))
}
