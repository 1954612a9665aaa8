//! The roles `pair` and `relay`: rooms of peers, in three forms.

pub mod native;
pub mod open;

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::header;
use hyper::upgrade::OnUpgrade;

use super::config::OpenTo;
use super::http::request::RequestContext;
use super::state::AppState;
use super::websocket::upgrade::Handshake;
use super::{credential, publish};
use crate::auth::is_trusted;
use crate::broker::room::{JoinRequest, Relayed, Seat};
use crate::broker::{Connection, Phase, Principal};
use crate::cluster::rooms::{RoomForwarder, RoomTarget};
use crate::geo::Location;
use crate::ops::statsd::RoomEvent;
use crate::protocol::frame::room_frames::Sender;
use crate::protocol::websocket::Bounds;
use crate::protocol::{CloseReason, ErrorCode, Refusal};

/// Characters of a `User-Agent` that peers learn: every message carries it.
const MAX_UA_CHARS: usize = 512;

/// Who is calling, kept until its connection is there.
#[derive(Clone)]
pub struct Caller {
    pub sender: Arc<Sender>,
    pub address: Option<IpAddr>,
    /// Its connection is on another node, which sent it here.
    pub is_guest: bool,
}

impl Caller {
    pub fn of(app: &AppState, call: &RequestContext) -> Self {
        let is_trusted = call.peer().address.is_some_and(|peer| is_trusted(peer, &app.limits.trusted_proxies));
        let located = app.places.as_ref().zip(call.client());
        let place = located.map(|(places, client)| places.locate(client.ip(), call.headers(), is_trusted));
        let Location { city, region, country } = place.unwrap_or_default();
        let sender = Sender {
            remote: call.client().map(|client| client.ip().to_string()),
            ua: call.header(header::USER_AGENT).map(|ua| ua.chars().take(MAX_UA_CHARS).collect()),
            city,
            country,
            region,
        };
        let address = call.client().map(|client| client.limit_key());
        Self { sender: Arc::new(sender), address, is_guest: false }
    }
}

/// What the connections of all forms have in common.
pub struct Peer {
    pub app: Arc<AppState>,
    pub connection: Arc<Connection>,
    pub caller: Caller,
    pub stand: Membership,
    pub began: Instant,
    /// Who opened a room with a login.
    pub principal: Option<Arc<Principal>>,
    /// The policy that the principal was checked against.
    pub checked: u64,
}

/// Where a peer is.
pub enum Membership {
    /// It has not joined, or has left.
    Outside,
    Joining(BoxFuture<'static, JoinOutcome>),
    Seated(Seat),
    /// In a room of another node.
    Forwarded(RoomForwarder),
}

/// What came of entering.
pub enum JoinOutcome {
    Seated(Seat),
    /// The room is on this other node.
    OtherNode(String, RoomTarget),
    Refused(CloseReason),
}

impl From<Result<Seat, CloseReason>> for JoinOutcome {
    fn from(joined: Result<Seat, CloseReason>) -> Self {
        joined.map_or_else(Self::Refused, Self::Seated)
    }
}

impl Peer {
    /// A connection that has yet to say what it wants.
    pub fn unknown(app: Arc<AppState>, connection: Arc<Connection>, caller: Caller) -> Self {
        if !caller.is_guest {
            app.statsd.count(RoomEvent::Create);
        }
        let checked = app.policy.generation();
        Self { app, connection, caller, stand: Membership::Outside, began: Instant::now(), principal: None, checked }
    }

    /// A connection whose request says what it wants.
    pub fn entering<F: Future<Output = JoinOutcome> + Send + 'static>(
        app: Arc<AppState>,
        connection: Arc<Connection>,
        caller: Caller,
        enter: impl FnOnce(Arc<AppState>, JoinRequest) -> F,
    ) -> Self {
        connection.set_authenticated(None);
        let mut peer = Self::unknown(app, connection, caller);
        peer.stand = Membership::Joining(Box::pin(enter(peer.app.clone(), peer.joiner())));
        peer
    }

    /// Stays for as long as this principal may be here.
    pub fn with_principal(mut self, principal: Option<Arc<Principal>>) -> Self {
        self.set_principal(principal);
        // It may have been revoked since it was admitted.
        self.checked = 0;
        self
    }

    pub fn set_principal(&mut self, principal: Option<Arc<Principal>>) {
        if let Some(principal) = &principal {
            self.connection.set_subject(principal.subject.clone());
        }
        self.principal = principal;
    }

    pub fn joiner(&self) -> JoinRequest {
        let Caller { sender, address, .. } = &self.caller;
        JoinRequest { connection: self.connection.clone(), sender: sender.clone(), address: *address }
    }

    /// To be called when the policy may have changed.
    pub fn recheck(&mut self) -> Result<(), CloseReason> {
        let generation = self.app.policy.generation();
        match &self.principal {
            Some(principal) if std::mem::replace(&mut self.checked, generation) != generation => {
                self.app.policy.check(principal)
            }
            _ => Ok(()),
        }
    }

    pub fn enter(&mut self, entered: JoinOutcome) -> Result<(), CloseReason> {
        self.stand = match (entered, &self.app.elsewhere) {
            (JoinOutcome::Seated(seat), _) => Membership::Seated(seat),
            (JoinOutcome::OtherNode(node, wanted), Some(elsewhere)) if !self.caller.is_guest => Membership::Forwarded(
                RoomForwarder::begin(elsewhere, node, wanted, &self.caller, self.connection.clone()),
            ),
            // Nobody is sent on a second time: the room moved just now.
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
        if let Membership::Seated(seat) = &self.stand { Some(seat) } else { None }
    }

    pub fn take_seat(&mut self) -> Option<Seat> {
        match std::mem::replace(&mut self.stand, Membership::Outside) {
            Membership::Seated(seat) => Some(seat),
            other => {
                self.stand = other;
                None
            }
        }
    }

    /// Where what it says has to go, if its room is on another node.
    pub fn elsewhere(&self) -> Option<&RoomForwarder> {
        if let Membership::Forwarded(strand) = &self.stand { Some(strand) } else { None }
    }

    /// Hands a message to the others; `frame` is given the number of the message.
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

    /// Gives the seat up as soon as the connection is of no use.
    pub fn on_end(&mut self) {
        let Membership::Seated(seat) = std::mem::replace(&mut self.stand, Membership::Outside) else { return };
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

    pub fn bounds(&self) -> Bounds {
        let message_bytes = self.app.rooms_config.max_message_bytes;
        Bounds { message_bytes, fragments: self.app.limits.max_fragments }
    }

    /// Enters. A sender waits for peers who read slowly.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Membership::Joining(entering) = &mut self.stand {
            let entered = ready!(entering.as_mut().poll(cx));
            if let Err(reason) = self.enter(entered) {
                self.connection.close(reason);
            }
        }
        match &self.stand {
            Membership::Seated(seat) => seat.poll_drained(cx),
            Membership::Forwarded(strand) => strand.poll_ready(cx),
            Membership::Outside | Membership::Joining(_) => Poll::Ready(()),
        }
    }
}

/// Who may open a room, with the body of the request.
pub struct Authorized {
    /// If rooms are opened with a login.
    pub principal: Option<Arc<Principal>>,
    pub body: Bytes,
}

/// Lets through whoever may open a room.
pub async fn authorize(
    app: &AppState,
    call: &RequestContext,
    body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
    max_bytes: usize,
) -> Result<Authorized, Refusal> {
    let principal = match app.rooms_config.open {
        OpenTo::Anyone => None,
        OpenTo::Login => Some(credential::principal(app, call).await?.ok_or(ErrorCode::Unauthenticated)?),
        OpenTo::Publisher => {
            let body = publish::authenticate(app, call, body, max_bytes).await?.body;
            return Ok(Authorized { principal: None, body });
        }
    };
    let body = publish::read_body(app, body, max_bytes).await?;
    Ok(Authorized { principal, body })
}

/// How a connection is closed that is refused a room.
pub fn close_reason_for(refusal: &Refusal) -> CloseReason {
    match refusal.code {
        ErrorCode::Malformed => CloseReason::Malformed,
        ErrorCode::EngineUnavailable => CloseReason::EngineUnavailable,
        _ => CloseReason::RateLimited,
    }
}

/// The older systems answer 400 to what is no upgrade.
pub fn older_handshake(call: &RequestContext, upgrade: Option<OnUpgrade>) -> Result<Handshake, Refusal> {
    Handshake::read(call, upgrade).map_err(|refusal| Refusal::new(ErrorCode::Malformed, refusal.detail))
}

/// A path segment, percent-decoded; `None` if it is not UTF-8.
pub fn decoded(segment: &str) -> Option<String> {
    percent_encoding::percent_decode_str(segment).decode_utf8().ok().map(Into::into)
}
