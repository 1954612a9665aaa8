//! The roles `pair` and `relay`: the part that connections to rooms of all three forms share.

pub mod native;
pub mod open;
pub mod remote;

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header;

use super::config::OpenTo;
use super::credential::policy_watch::PolicyWatch;
use super::http::request::{RequestBody, RequestContext};
use super::publish::Signed;
use super::state::AppState;
use super::websocket::upgrade::Handshake;
use super::{credential, publish};
use crate::auth::is_trusted;
use crate::auth::publisher::Publisher;
use crate::broker::room::{JoinRequest, Relayed, Seat};
use crate::broker::{Connection, Phase, Principal, RateLimit};
use crate::cluster::rooms::{Caller, Reservation, RoomForwarder, RoomTarget};
use crate::geo::Location;
use crate::ops::statsd::RoomEvent;
use crate::protocol::frame::room_frames::Sender;
use crate::protocol::websocket::Bounds;
use crate::protocol::{CloseReason, ErrorCode, Refusal};

/// Characters of a `User-Agent` in a peer's metadata, which the older protocols repeat in every message.
const MAX_UA_CHARS: usize = 512;

/// The caller of a request on this node.
pub fn caller_of(app: &AppState, call: &RequestContext) -> Caller {
    let is_trusted = call.peer().address.is_some_and(|peer| is_trusted(peer, &app.limits.trusted_proxies));
    let located = app.geo.as_ref().zip(call.client());
    let location = located.map(|(geo, client)| geo.locate(client.ip(), call.headers(), is_trusted));
    let Location { city, region, country } = location.unwrap_or_default();
    let sender = Sender {
        remote: call.client().map(|client| client.ip().to_string()),
        ua: call.header(header::USER_AGENT).map(|ua| ua.chars().take(MAX_UA_CHARS).collect()),
        city,
        country,
        region,
    };
    let address = call.client().map(|client| client.limit_key());
    Caller { sender: Arc::new(sender), address, is_remote: false }
}

/// Reserves one more room for an address, if nodes count rooms together; to be held until the room is open.
pub async fn reserve(app: &AppState, address: Option<IpAddr>) -> Result<Option<Reservation>, Refusal> {
    match &app.cluster_rooms {
        Some(cluster) => cluster.reserve(address).await,
        None => Ok(None),
    }
}

/// The state that connections of all room forms share.
pub struct Peer {
    pub app: Arc<AppState>,
    pub connection: Arc<Connection>,
    pub caller: Caller,
    pub membership: Membership,
    pub began: Instant,
    /// The principal that opened the room, if rooms are opened with a login.
    pub principal: Option<Arc<Principal>>,
    pub policy_watch: PolicyWatch,
    frame_rate: RateLimit,
    /// Clients of the channelserver take the end of the socket as "no such room", and a Close as an error.
    pub cuts_unknown_room: bool,
}

/// The state of a peer's place in a room.
pub enum Membership {
    /// Not joined yet, or left.
    Outside,
    Joining(BoxFuture<'static, JoinOutcome>),
    Seated(Seat),
    /// In a room that another node owns.
    Forwarded(RoomForwarder),
}

pub enum JoinOutcome {
    Seated(Seat),
    /// The node that owns the room.
    OtherNode(String, RoomTarget),
    Refused(CloseReason),
}

impl From<Result<Seat, CloseReason>> for JoinOutcome {
    fn from(joined: Result<Seat, CloseReason>) -> Self {
        joined.map_or_else(Self::Refused, Self::Seated)
    }
}

impl Peer {
    /// A connection whose first message names its room.
    pub fn unknown(app: Arc<AppState>, connection: Arc<Connection>, caller: Caller) -> Self {
        if !caller.is_remote {
            app.statsd.count(RoomEvent::Create);
        }
        let policy_watch = PolicyWatch::current(&app.policy);
        let frame_rate = app.limits.frame_rate();
        let (membership, began) = (Membership::Outside, Instant::now());
        Self {
            app,
            connection,
            caller,
            membership,
            began,
            principal: None,
            policy_watch,
            frame_rate,
            cuts_unknown_room: false,
        }
    }

    /// A connection whose request names its room; joins at once.
    pub fn joining<F: Future<Output = JoinOutcome> + Send + 'static>(
        app: Arc<AppState>,
        connection: Arc<Connection>,
        caller: Caller,
        join: impl FnOnce(Arc<AppState>, JoinRequest) -> F,
    ) -> Self {
        let mut peer = Self::unknown(app, connection, caller);
        peer.membership = Membership::Joining(Box::pin(join(peer.app.clone(), peer.join_request())));
        peer
    }

    /// Ties the connection to a principal: a revocation closes it.
    pub fn with_principal(mut self, principal: Option<Arc<Principal>>) -> Self {
        self.set_principal(principal);
        self.policy_watch = PolicyWatch::due();
        self
    }

    pub fn set_principal(&mut self, principal: Option<Arc<Principal>>) {
        if let Some(principal) = &principal {
            self.connection.set_subject(principal.subject.clone());
        }
        self.principal = principal;
    }

    pub fn join_request(&self) -> JoinRequest {
        let Caller { sender, address, .. } = &self.caller;
        JoinRequest { connection: self.connection.clone(), sender: sender.clone(), address: *address }
    }

    /// Checks the principal again if the policy changed.
    pub fn recheck(&mut self) -> Result<(), CloseReason> {
        match &self.principal {
            Some(principal) if self.policy_watch.is_due(&self.app.policy) => self.app.policy.check(principal),
            _ => Ok(()),
        }
    }

    pub fn on_joined(&mut self, outcome: JoinOutcome) -> Result<(), CloseReason> {
        self.membership = match (outcome, &self.app.cluster_rooms) {
            (JoinOutcome::Seated(seat), _) => {
                self.connection.set_authenticated(None);
                Membership::Seated(seat)
            }
            (JoinOutcome::OtherNode(node, target), Some(cluster)) if !self.caller.is_remote => {
                let connection = self.connection.clone();
                let peers = &cluster.forwarded;
                Membership::Forwarded(RoomForwarder::begin(peers, node, target, &self.caller, connection))
            }
            // No second forwarding: the room has just moved.
            (JoinOutcome::OtherNode(..), _) => return Err(CloseReason::EngineUnavailable),
            (JoinOutcome::Refused(reason), _) => {
                if reason == CloseReason::ConnectionLimit {
                    self.app.statsd.count(RoomEvent::MaxConnections);
                }
                return Err(reason);
            }
        };
        Ok(())
    }

    pub fn seat(&self) -> Option<&Seat> {
        if let Membership::Seated(seat) = &self.membership { Some(seat) } else { None }
    }

    pub fn take_seat(&mut self) -> Option<Seat> {
        match std::mem::replace(&mut self.membership, Membership::Outside) {
            Membership::Seated(seat) => Some(seat),
            other => {
                self.membership = other;
                None
            }
        }
    }

    /// The forwarder of its frames, if its room is on another node.
    pub fn forwarder(&self) -> Option<&RoomForwarder> {
        if let Membership::Forwarded(forwarder) = &self.membership { Some(forwarder) } else { None }
    }

    /// Sends a message to the other peers; `frame` encodes it with its sequence number.
    pub fn relay(&self, bytes: usize, frame: impl FnOnce(u64) -> Bytes) -> Option<Relayed> {
        let relayed = self.seat()?.relay(bytes, Instant::now(), frame);
        if relayed == Relayed::Ended {
            match self.connection.phase() {
                Phase::Closing(CloseReason::MessageLimit) => self.app.statsd.count(RoomEvent::MaxMessages),
                Phase::Closing(CloseReason::DataLimit) => self.app.statsd.count(RoomEvent::MaxData),
                _ => {}
            }
        }
        Some(relayed)
    }

    /// Frees the seat when the connection ends.
    pub fn on_end(&mut self) {
        let Membership::Seated(seat) = std::mem::replace(&mut self.membership, Membership::Outside) else { return };
        self.app.statsd.time(self.began.elapsed());
        match self.connection.phase() {
            Phase::Closing(CloseReason::PingTimeout) | Phase::Closed(CloseReason::PingTimeout) => {
                seat.timed_out();
                self.app.statsd.count(RoomEvent::Timeout);
            }
            Phase::Closing(CloseReason::LifespanExpired) | Phase::Closed(CloseReason::LifespanExpired) => {
                self.app.statsd.count(RoomEvent::Expired);
            }
            _ => {}
        }
    }

    /// Counts a message of the peer.
    pub fn on_frame(&mut self) -> Result<(), CloseReason> {
        self.frame_rate.try_take(Instant::now()).map_err(|_| CloseReason::RateLimited)
    }

    pub fn bounds(&self) -> Bounds {
        let message_bytes = self.app.rooms_config.max_message_bytes;
        Bounds { message_bytes, fragments: self.app.limits.max_fragments }
    }

    /// Completes a join. Later, pending while the other peers' outboxes or the forwarder's queue are full.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Membership::Joining(joining) = &mut self.membership {
            let outcome = ready!(joining.as_mut().poll(cx));
            match self.on_joined(outcome) {
                Err(CloseReason::UnknownRoom) if self.cuts_unknown_room => {
                    self.connection.cut(CloseReason::UnknownRoom);
                }
                Err(reason) => self.connection.close(reason),
                Ok(()) => {}
            }
        }
        match &self.membership {
            Membership::Seated(seat) => seat.poll_drained(cx),
            Membership::Forwarded(forwarder) => forwarder.poll_ready(cx),
            Membership::Outside | Membership::Joining(_) => Poll::Ready(()),
        }
    }
}

/// An admitted request to open a room.
pub struct Authorized {
    /// Set if rooms are opened with a login.
    pub principal: Option<Arc<Principal>>,
    /// Set if publishers open rooms.
    pub publisher: Option<Arc<Publisher>>,
    pub body: Bytes,
}

/// Admits a request by the setting `rooms.open`.
pub async fn authorize(
    app: &AppState,
    call: &RequestContext,
    body: impl RequestBody,
    max_bytes: usize,
) -> Result<Authorized, Refusal> {
    let principal = match app.rooms_config.open {
        OpenTo::Anyone => None,
        OpenTo::Login => Some(credential::principal(app, call).await?.ok_or(ErrorCode::Unauthenticated)?),
        OpenTo::Publisher => {
            let Signed { publisher, body } = publish::authenticate(app, call, body, max_bytes).await?;
            return Ok(Authorized { principal: None, publisher: Some(publisher), body });
        }
    };
    let body = publish::read_body(app, body, max_bytes).await?;
    Ok(Authorized { principal, publisher: None, body })
}

/// Reads a handshake. The older protocols answer 400 to a request that is no upgrade.
pub fn older_handshake(call: &RequestContext) -> Result<Handshake, Refusal> {
    Handshake::read(call).map_err(|refusal| Refusal::new(ErrorCode::Malformed, refusal.detail))
}

/// A path segment, percent-decoded; `None` if it is not UTF-8.
pub fn decoded(segment: &str) -> Option<String> {
    percent_encoding::percent_decode_str(segment).decode_utf8().ok().map(Into::into)
}
