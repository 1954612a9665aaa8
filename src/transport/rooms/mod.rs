//! The roles `pair` and `relay`: rooms of peers, in three forms.

pub mod channelserver;
pub mod heartbeat;
pub mod native;
pub mod open;
pub mod relay;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http::{HeaderValue, header};
use hyper::upgrade::OnUpgrade;

use super::app::App;
use super::call::Call;
use super::config::OpenTo;
use super::websocket::Wire;
use super::websocket::upgrade::Handshake;
use super::{credential, problem, publish};
use crate::auth::{Place, is_trusted};
use crate::broker::room::{Joiner, Relayed, Seat};
use crate::broker::{Connection, Phase, Principal};
use crate::ops::statsd::RoomEvent;
use crate::protocol::room::Sender;
use crate::protocol::websocket::Bounds;
use crate::protocol::{CloseReason, Code, Refusal};

/// Characters of a `User-Agent` that peers learn: every message carries it.
const MAX_UA_CHARS: usize = 512;

/// Who is calling, kept until its connection is there.
#[derive(Clone)]
struct Caller {
    sender: Arc<Sender>,
    address: Option<std::net::IpAddr>,
}

impl Caller {
    fn of(app: &App, call: &Call) -> Self {
        let is_trusted = call.peer().address.is_some_and(|peer| is_trusted(peer, &app.limits.trusted_proxies));
        let located = app.places.as_ref().zip(call.client());
        let place = located.map(|(places, client)| places.place(client, call.headers(), is_trusted));
        let Place { city, region, country } = place.unwrap_or_default();
        let sender = Sender {
            remote: call.client().map(|client| client.ip().to_string()),
            ua: call.header(header::USER_AGENT).map(|ua| ua.chars().take(MAX_UA_CHARS).collect()),
            city,
            country,
            region,
        };
        Self { sender: Arc::new(sender), address: call.client().map(|client| client.limit_key()) }
    }

    fn joiner(&self, connection: &Arc<Connection<Wire>>) -> Joiner {
        Joiner { connection: connection.clone(), sender: self.sender.clone(), address: self.address }
    }
}

/// What the connections of all forms have in common.
struct Peer {
    app: Arc<App>,
    connection: Arc<Connection<Wire>>,
    /// `None` before it joined and after it left.
    seat: Option<Seat>,
    began: Instant,
    /// Who opened a room with a login.
    principal: Option<Arc<Principal>>,
    /// The policy that the principal was checked against.
    checked: u64,
}

impl Peer {
    /// A connection that has yet to say what it wants.
    fn unknown(app: Arc<App>, connection: &Arc<Connection<Wire>>) -> Self {
        app.statsd.count(RoomEvent::Create);
        let checked = app.policy.generation();
        let (connection, began) = (connection.clone(), Instant::now());
        Self { app, connection, seat: None, began, principal: None, checked }
    }

    /// Stays for as long as this principal may be here.
    fn vouched(mut self, principal: Option<Arc<Principal>>) -> Self {
        self.principal = principal;
        // It may have been revoked since it was admitted.
        self.checked = 0;
        self
    }

    /// To be called when the policy may have changed.
    fn recheck(&mut self) -> Result<(), CloseReason> {
        let generation = self.app.policy.generation();
        match &self.principal {
            Some(principal) if std::mem::replace(&mut self.checked, generation) != generation => {
                self.app.policy.check(principal)
            }
            _ => Ok(()),
        }
    }

    /// A connection that joined, or is told why not.
    fn new(app: Arc<App>, connection: &Arc<Connection<Wire>>, joined: Result<Seat, CloseReason>) -> Self {
        connection.admit(None);
        let mut peer = Self::unknown(app, connection);
        peer.join(joined);
        peer
    }

    fn join(&mut self, joined: Result<Seat, CloseReason>) {
        match joined {
            Ok(seat) => self.seat = Some(seat),
            Err(reason) => {
                if reason == CloseReason::ConnectionLimit {
                    self.app.statsd.count(RoomEvent::MaxConnections);
                }
                self.connection.close(reason);
            }
        }
    }

    /// Hands a message to the others; `frame` is given the number of the message.
    fn relay(&self, bytes: usize, frame: impl FnOnce(u64) -> Bytes) -> Option<Relayed> {
        let relayed = self.seat.as_ref()?.relay(bytes, Instant::now(), frame);
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
    fn on_end(&mut self) {
        let Some(seat) = self.seat.take() else { return };
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

    fn bounds(&self) -> Bounds {
        let message_bytes = self.app.rooms_config.max_message_bytes;
        Bounds { message_bytes, fragments: self.app.limits.max_fragments }
    }

    /// A sender waits for peers who read slowly.
    fn poll_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.seat.as_ref().map_or(Poll::Ready(()), |seat| seat.poll_relief(cx))
    }
}

/// Who may open a room, with the body of the request.
struct Authorized {
    /// If rooms are opened with a login.
    principal: Option<Arc<Principal>>,
    body: Bytes,
}

/// Lets through whoever may open a room.
async fn authorize(
    app: &App,
    call: &Call,
    body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
    max_bytes: usize,
) -> Result<Authorized, Refusal> {
    let principal = match app.rooms_config.open {
        OpenTo::Anyone => None,
        OpenTo::Login => Some(credential::principal(app, call).await?.ok_or(Code::Unauthenticated)?),
        OpenTo::Publisher => {
            let body = publish::authenticate(app, call, body, max_bytes).await?.body;
            return Ok(Authorized { principal: None, body });
        }
    };
    let body = publish::read_body(app, body, max_bytes).await?;
    Ok(Authorized { principal, body })
}

/// The older systems answer 400 to what is no upgrade.
fn older_handshake(call: &Call, upgrade: Option<OnUpgrade>) -> Result<Handshake, Refusal> {
    Handshake::read(call, upgrade).map_err(|refusal| Refusal::new(Code::Malformed, refusal.detail))
}

fn not_allowed(allow: &'static str) -> warp::reply::Response {
    let mut response = problem::response(&Code::MethodNotAllowed.into());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

/// A path segment, percent-decoded; `None` if it is not UTF-8.
fn decoded(segment: &str) -> Option<String> {
    percent_encoding::percent_decode_str(segment).decode_utf8().ok().map(Into::into)
}
