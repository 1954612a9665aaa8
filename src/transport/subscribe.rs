//! `GET /v1/subscribe`: subscribers of our own protocol over WebSocket.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;

use super::app::App;
use super::call::Call;
use super::origin;
use super::websocket::upgrade::Handshake;
use super::websocket::{Handler, Wire};
use crate::broker::rate::RateLimit;
use crate::broker::session::rfc3339;
use crate::broker::{Connection, Now, Principal, Session};
use crate::protocol::command::{Command, Unreadable};
use crate::protocol::reply::Reply;
use crate::protocol::websocket::Bounds;
use crate::protocol::{CloseReason, Code, Refusal};

/// The subprotocol of subscribers and publishers.
pub const SUBPROTOCOL: &str = "lastmile.v1";

/// The first message: a token has at most 8 KiB.
const MAX_HELLO_BYTES: usize = 10 * 1024;

/// A burst of commands: a client may subscribe to all its channels at once.
const BURST: u32 = 10;

pub fn upgrade(app: &Arc<App>, call: &Call, upgrade: Option<OnUpgrade>) -> Result<warp::reply::Response, Refusal> {
    let handshake = Handshake::read(call, upgrade)?;
    origin::check(call)?;
    // A credential in the request is checked before the upgrade, so that a bad one gets a plain 401.
    let principal = call.bearer().map(|token| verify(app, token)).transpose()?;
    if !handshake.speaks(SUBPROTOCOL) {
        let response = handshake.accept(app, call, None, |connection| {
            connection.close(CloseReason::UnsupportedProtocol);
            Refused
        });
        return Ok(response);
    }
    let shared = app.clone();
    Ok(handshake.accept(app, call, Some(SUBPROTOCOL), move |connection| {
        let mut subscriber = Subscriber::new(shared, connection.clone());
        match principal {
            Some(principal) => subscriber.welcome(Some(principal)),
            None => connection.expect_hello(subscriber.app.limits.hello),
        }
        subscriber
    }))
}

/// Who a token speaks for.
pub fn verify(app: &App, token: &str) -> Result<Arc<Principal>, Refusal> {
    app.policy.issuers().verify(token, Now::read().unix()).map_err(|error| {
        tracing::info!(%error, "token refused");
        problem_of_token()
    })
}

/// The peer is told a code, never a cause.
fn problem_of_token() -> Refusal {
    Refusal::new(Code::Unauthenticated, "the token is not valid here")
}

struct Subscriber {
    app: Arc<App>,
    connection: Arc<Connection<Wire>>,
    /// `None` until the first message says who this is.
    session: Option<Session>,
    frames: RateLimit,
    /// The policy that the session was checked against.
    generation: u64,
}

impl Subscriber {
    fn new(app: Arc<App>, connection: Arc<Connection<Wire>>) -> Self {
        let rate = app.limits.max_commands_per_second;
        let generation = app.policy.generation();
        Self { app, connection, session: None, frames: RateLimit::new(rate, rate.saturating_mul(BURST)), generation }
    }

    fn welcome(&mut self, principal: Option<Arc<Principal>>) {
        let welcome = Reply::Welcome {
            connection: &format!("c-{:x}", self.connection.id),
            ping_secs: self.app.limits.ping.as_secs(),
            principal: principal.as_ref().map(|principal| &*principal.subject),
            expires: principal.as_ref().map(|principal| rfc3339(principal.expires)),
        };
        self.connection.send_text(&welcome.to_json());
        self.session = Some(Session::new(self.connection.clone(), self.app.channels(), principal));
    }

    /// The first message: `hello`, or any command of a client that brings no token.
    fn on_first(&mut self, command: &Command<'_>) -> Result<(), CloseReason> {
        let is_hello = command.kind.0 == "hello";
        let token = command.token().filter(|_| is_hello);
        let principal = token.map(|token| verify(&self.app, token)).transpose();
        self.welcome(principal.map_err(|_| CloseReason::Unauthenticated)?);
        if !is_hello {
            self.on_command(command);
        }
        Ok(())
    }

    fn on_command(&mut self, command: &Command<'_>) {
        let Some(session) = &mut self.session else { return };
        if command.kind.0 != "refresh" {
            return session.on_command(command, Now::read());
        }
        let id = command.id();
        let refreshed = match command.token() {
            None => Err(Refusal::new(Code::Malformed, "`token` is missing")),
            Some(token) => verify(&self.app, token).and_then(|principal| session.refresh(id, principal)),
        };
        if let Err(refusal) = refreshed {
            session.refuse(id, &refusal);
        }
    }
}

impl Handler for Subscriber {
    fn bounds(&self) -> Bounds {
        // Before it is known who this is, there is room for a token and little else.
        let message_bytes = match self.session {
            None => MAX_HELLO_BYTES.min(self.app.limits.max_command_bytes),
            Some(_) => self.app.limits.max_command_bytes,
        };
        Bounds { message_bytes, fragments: self.app.limits.max_fragments }
    }

    fn on_frame(&mut self) -> Result<(), CloseReason> {
        self.frames.try_take(Now::read().steady).map_err(|_| CloseReason::RateLimited)
    }

    fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        match Command::parse(text) {
            Ok(command) if self.session.is_none() => return self.on_first(&command),
            Ok(command) => self.on_command(&command),
            Err(Unreadable::Refused(refusal)) if self.session.is_some() => {
                self.connection.send_text(&Reply::error(None, &refusal).to_json());
            }
            Err(_) => return Err(CloseReason::Malformed),
        }
        Ok(())
    }

    fn on_wake(&mut self) -> Result<(), CloseReason> {
        let generation = self.app.policy.generation();
        if std::mem::replace(&mut self.generation, generation) != generation
            && let Some(session) = &mut self.session
        {
            let issuers = self.app.policy.issuers();
            if session.principal().is_some_and(|principal| !issuers.knows(&principal.issuer)) {
                return Err(CloseReason::Revoked);
            }
            session.recheck();
        }
        Ok(())
    }
}

/// A connection that is only told why it is refused.
struct Refused;

impl Handler for Refused {
    fn bounds(&self) -> Bounds {
        Bounds { message_bytes: 0, fragments: 0 }
    }

    fn on_frame(&mut self) -> Result<(), CloseReason> {
        Ok(())
    }

    fn on_text(&mut self, _text: &str) -> Result<(), CloseReason> {
        Ok(())
    }
}
