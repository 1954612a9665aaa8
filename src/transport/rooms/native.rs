//! `/v1/rooms` and `/v1/rooms/{room}`: our own form, subprotocol `lastmile.pair.v1`.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Buf;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use hyper::upgrade::OnUpgrade;

use super::{Caller, Peer, authorize, not_allowed, open};
use crate::broker::room::{Claim, CodeForm, OpenOptions, Relayed};
use crate::broker::{Now, Principal};
use crate::protocol::command::Unreadable;
use crate::protocol::room::{RoomCommand, RoomId, RoomReply, message};
use crate::protocol::websocket::{Bounds, text_frame};
use crate::protocol::{CloseReason, Code, Refusal};
use crate::transport::app::App;
use crate::transport::call::Call;
use crate::transport::config::OpenTo;
use crate::transport::websocket::Handler;
use crate::transport::websocket::upgrade::Handshake;
use crate::transport::{credential, origin};

pub const SUBPROTOCOL: &str = "lastmile.pair.v1";

/// Everything at and below `/v1/rooms`.
pub async fn handle(
    app: Arc<App>,
    call: Call,
    upgrade: Option<OnUpgrade>,
    body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
) -> Result<warp::reply::Response, Refusal> {
    // A room that does not exist and a text that cannot be a room's id are the same to whoever guesses.
    let room = match call.path().strip_prefix("/v1/rooms").ok_or(Code::NotFound)? {
        "" => None,
        rest => Some(rest.strip_prefix('/').and_then(RoomId::parse).ok_or(Code::NotFound)?),
    };
    match (call.method(), room) {
        ("GET", room) => join(&app, &call, upgrade, room, body).await,
        ("POST", None) => open::post(app, call, body).await,
        (_, None) => Ok(not_allowed("GET, POST")),
        (_, Some(_)) => Ok(not_allowed("GET")),
    }
}

async fn join(
    app: &Arc<App>,
    call: &Call,
    upgrade: Option<OnUpgrade>,
    room: Option<RoomId>,
    body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
) -> Result<warp::reply::Response, Refusal> {
    let handshake = Handshake::read(call, upgrade)?;
    origin::check(call)?;
    // Joining needs no credential, so only one that is there is looked at.
    let (may_open, principal) = match app.rooms_config.open {
        OpenTo::Anyone => (true, None),
        OpenTo::Login => {
            let principal = credential::principal(app, call).await?;
            (principal.is_some(), principal)
        }
        OpenTo::Publisher if call.headers().contains_key("signature-input") => {
            authorize(app, call, body, 0).await?;
            (true, None)
        }
        OpenTo::Publisher => (false, None),
    };
    let is_spoken = handshake.speaks(SUBPROTOCOL);
    let (shared, caller) = (app.clone(), Caller::of(app, call));
    let protocol = is_spoken.then_some(SUBPROTOCOL);
    Ok(handshake.accept_with(app, call, &app.room_connection_limits, protocol, move |connection| {
        if is_spoken {
            connection.expect_hello(shared.limits.hello);
        } else {
            connection.close(CloseReason::UnsupportedProtocol);
        }
        let sender = caller.sender.to_json().into();
        let peer = Peer::unknown(shared, connection).vouched(principal);
        Native { peer, room, caller, sender, may_open, opening: None }
    }))
}

struct Native {
    peer: Peer,
    /// The room of the path; a code alone names its room.
    room: Option<RoomId>,
    caller: Caller,
    /// The peer's metadata as JSON.
    sender: Box<str>,
    may_open: bool,
    opening: Option<Box<Opening>>,
}

/// An `open` whose token is being verified.
struct Opening {
    verified: BoxFuture<'static, Result<Arc<Principal>, Refusal>>,
    /// The `open`, and what came behind it.
    texts: Vec<String>,
}

impl Native {
    /// The first frame says what opens the room.
    fn on_first(&mut self, command: &RoomCommand<'_>, text: &str) -> Result<(), CloseReason> {
        if command.kind.0 == "open" {
            return self.open(command, text);
        }
        let claim = match (command.kind.0.as_ref(), &command.secret, &command.code, &command.resume) {
            ("join", Some(secret), None, _) => Claim::Secret(&secret.0),
            ("join", None, Some(code), _) => Claim::Code(&code.0),
            ("resume", _, _, Some(resume)) => Claim::Resume { secret: &resume.0, seen: command.seen },
            _ => return Err(CloseReason::Malformed),
        };
        self.enter(claim)
    }

    fn enter(&mut self, claim: Claim<'_>) -> Result<(), CloseReason> {
        let joiner = self.caller.joiner(&self.peer.connection);
        let seat = self.peer.app.rooms.enter(self.room, claim, joiner, Instant::now())?;
        self.peer.connection.admit(None);
        if matches!(claim, Claim::Resume { .. }) {
            tracing::info!(connection = self.peer.connection.id, peer = seat.name(), "seat resumed");
        }
        self.peer.seat = Some(seat);
        Ok(())
    }

    /// Opens a room and takes its first seat, for clients that make one connection only.
    fn open(&mut self, command: &RoomCommand<'_>, text: &str) -> Result<(), CloseReason> {
        let app = self.peer.app.clone();
        if self.room.is_some() {
            return Err(CloseReason::Malformed);
        }
        if !self.may_open {
            // Browsers can set no header, so a token may come here.
            let token = command.token.as_ref().filter(|_| app.rooms_config.open == OpenTo::Login);
            let token = token.ok_or(CloseReason::Unauthenticated)?.0.clone().into_owned();
            let verified = Box::pin(async move { credential::verify(&app, &token).await });
            self.opening = Some(Box::new(Opening { verified, texts: vec![text.to_owned()] }));
            return Ok(());
        }
        let code = match &command.code {
            None => None,
            Some(form) => Some(CodeForm::of(&form.0).ok_or(CloseReason::Malformed)?),
        };
        let options = OpenOptions { max_seats: command.max_seats, code };
        let opened = app.rooms.open(options, self.caller.address, Now::read()).map_err(|refusal| {
            self.reply(&RoomReply::error(command.id(), &refusal));
            if refusal.code == Code::Malformed { CloseReason::Malformed } else { CloseReason::RateLimited }
        })?;
        self.reply(&RoomReply::Opened {
            room: &opened.room.to_string(),
            link: &open::link(&opened),
            join_secret: &opened.join_secret,
            expires: opened.expires.as_deref(),
            code: opened.code.as_deref(),
            code_secs: opened.code.as_ref().map(|_| app.rooms_config.limits.code.as_secs()),
        });
        self.room = Some(opened.room);
        self.enter(Claim::Secret(&opened.join_secret))
    }

    fn on_command(&mut self, command: &RoomCommand<'_>) -> Result<(), Refusal> {
        let malformed = |detail: &'static str| Refusal::new(Code::Malformed, detail);
        match command.kind.0.as_ref() {
            "message" => {
                let data = command.data.ok_or_else(|| malformed("`data` is missing"))?.get();
                self.message(command.id(), data)
            }
            "ping" => {
                self.reply(&RoomReply::Pong { id: command.id() });
                Ok(())
            }
            "leave" => {
                if let Some(seat) = self.peer.seat.take() {
                    seat.leave();
                }
                self.peer.connection.close(CloseReason::Normal);
                Ok(())
            }
            "end" => {
                if let Some(seat) = self.peer.seat.take() {
                    seat.end_room();
                }
                Ok(())
            }
            "open" | "join" | "resume" => Err(malformed("the connection has its seat")),
            other => Err(Refusal::new(Code::Malformed, format!("unknown type `{}`", other.escape_debug()))),
        }
    }

    fn message(&self, id: Option<&str>, data: &str) -> Result<(), Refusal> {
        let Some(seat) = &self.peer.seat else { return Ok(()) };
        let frame = |seq| text_frame(message(seq, seat.name(), id, data, &self.sender).as_bytes());
        match self.peer.relay(data.len(), frame) {
            Some(Relayed::NoPeer) => Err(Code::PeerAbsent.into()),
            // If the room has ended, this connection was closed with it.
            Some(Relayed::Sent | Relayed::Ended) | None => Ok(()),
        }
    }

    fn reply(&self, reply: &RoomReply<'_>) {
        self.peer.connection.send_text(&reply.to_json());
    }
}

impl Handler for Native {
    fn bounds(&self) -> Bounds {
        self.peer.bounds()
    }

    fn on_frame(&mut self) -> Result<(), CloseReason> {
        Ok(())
    }

    fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        if let Some(opening) = &mut self.opening {
            // Nothing more is read until the token is verified, so these are what one read held.
            opening.texts.push(text.to_owned());
            return Ok(());
        }
        let command = match RoomCommand::parse(text) {
            Ok(command) if self.peer.seat.is_none() => return self.on_first(&command, text),
            Ok(command) => command,
            Err(Unreadable::Refused(refusal)) if self.peer.seat.is_some() => {
                self.reply(&RoomReply::error(None, &refusal));
                return Ok(());
            }
            Err(_) => return Err(CloseReason::Malformed),
        };
        if let Err(refusal) = self.on_command(&command) {
            self.reply(&RoomReply::error(command.id(), &refusal));
        }
        Ok(())
    }

    /// A peer that closes normally, or says no reason, is not coming back.
    fn on_close(&mut self, payload: &[u8]) {
        const NORMAL: [u8; 2] = 1000u16.to_be_bytes();
        if (payload.is_empty() || payload.starts_with(&NORMAL))
            && let Some(seat) = self.peer.seat.take()
        {
            seat.leave();
        }
    }

    fn on_end(&mut self) {
        self.peer.on_end();
    }

    fn on_wake(&mut self) -> Result<(), CloseReason> {
        self.peer.recheck()
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(opening) = &mut self.opening {
            self.peer.principal = std::task::ready!(opening.verified.as_mut().poll(cx)).ok();
            self.may_open = self.peer.principal.is_some();
            let texts = self.opening.take().map(|opening| opening.texts).unwrap_or_default();
            let done = match self.may_open {
                true => texts.iter().try_for_each(|text| self.on_text(text)),
                false => Err(CloseReason::Unauthenticated),
            };
            if let Err(reason) = done {
                self.peer.connection.close(reason);
            }
        }
        self.peer.poll_ready(cx)
    }
}
