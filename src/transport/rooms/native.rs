//! `/v1/rooms` and `/v1/rooms/{room}`: our own form, subprotocol `lastmile.pair.v1`.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Buf;
use futures_util::Stream;
use hyper::upgrade::OnUpgrade;

use super::{Caller, Peer, not_allowed, open};
use crate::broker::room::{Claim, Relayed};
use crate::protocol::command::Unreadable;
use crate::protocol::room::{RoomCommand, RoomId, RoomReply, message};
use crate::protocol::websocket::{Bounds, text_frame};
use crate::protocol::{CloseReason, Code, Refusal};
use crate::transport::app::App;
use crate::transport::call::Call;
use crate::transport::origin;
use crate::transport::websocket::Handler;
use crate::transport::websocket::upgrade::Handshake;

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
        ("GET", room) => join(&app, &call, upgrade, room),
        ("POST", None) => open::post(app, call, body).await,
        (_, None) => Ok(not_allowed("GET, POST")),
        (_, Some(_)) => Ok(not_allowed("GET")),
    }
}

fn join(
    app: &Arc<App>,
    call: &Call,
    upgrade: Option<OnUpgrade>,
    room: Option<RoomId>,
) -> Result<warp::reply::Response, Refusal> {
    let handshake = Handshake::read(call, upgrade)?;
    origin::check(call)?;
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
        Native { peer: Peer { app: shared, connection: connection.clone(), seat: None }, room, caller, sender }
    }))
}

struct Native {
    peer: Peer,
    /// The room of the path; a code alone names its room.
    room: Option<RoomId>,
    caller: Caller,
    /// The peer's metadata as JSON.
    sender: Box<str>,
}

impl Native {
    /// The first frame says what opens the room.
    fn on_first(&mut self, command: &RoomCommand<'_>) -> Result<(), CloseReason> {
        let claim = match (command.kind.0.as_ref(), &command.secret, &command.code, &command.resume) {
            ("join", Some(secret), None, _) => Claim::Secret(&secret.0),
            ("join", None, Some(code), _) => Claim::Code(&code.0),
            ("resume", _, _, Some(resume)) => Claim::Resume { secret: &resume.0, seen: command.seen },
            _ => return Err(CloseReason::Malformed),
        };
        let joiner = self.caller.joiner(&self.peer.connection);
        let seat = self.peer.app.rooms.enter(self.room, claim, joiner, Instant::now())?;
        self.peer.connection.admit(None);
        if matches!(claim, Claim::Resume { .. }) {
            tracing::info!(connection = self.peer.connection.id, peer = seat.name(), "seat resumed");
        }
        self.peer.seat = Some(seat);
        Ok(())
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
            "join" | "resume" => Err(malformed("the connection has its seat")),
            other => Err(Refusal::new(Code::Malformed, format!("unknown type `{}`", other.escape_debug()))),
        }
    }

    fn message(&self, id: Option<&str>, data: &str) -> Result<(), Refusal> {
        let Some(seat) = &self.peer.seat else { return Ok(()) };
        let frame = |seq| text_frame(message(seq, seat.name(), id, data, &self.sender).as_bytes());
        match seat.relay(data.len(), Instant::now(), frame) {
            Relayed::NoPeer => Err(Code::PeerAbsent.into()),
            // If the room has ended, this connection was closed with it.
            Relayed::Sent | Relayed::Ended => Ok(()),
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
        let command = match RoomCommand::parse(text) {
            Ok(command) if self.peer.seat.is_none() => return self.on_first(&command),
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
        if payload.is_empty() || payload.starts_with(&NORMAL) {
            if let Some(seat) = self.peer.seat.take() {
                seat.leave();
            }
        }
    }

    fn on_end(&mut self) {
        self.peer.on_end();
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.peer.poll_ready(cx)
    }
}
