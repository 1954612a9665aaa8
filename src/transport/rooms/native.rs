//! `/v1/rooms` and `/v1/rooms/{room}`: native rooms, subprotocol `lastmile.pair.v1`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures_util::future::BoxFuture;
use warp::reply::Response;

use super::{JoinOutcome, Peer, authorize, caller_of, open};
use crate::auth::publisher::Publisher;
use crate::broker::room::{CodeFormat, Credential, Key, OpenOptions, Opened, Relayed};
use crate::broker::{Connection, Now, Principal};
use crate::cluster::rooms::{Base64Bytes, Caller, ClientFrame, RoomTarget};
use crate::ops::log::folded;
use crate::protocol::frame::command::Unreadable;
use crate::protocol::frame::room_frames::{RoomCommand, RoomId, RoomServerFrame, message};
use crate::protocol::websocket::{Bounds, text_frame};
use crate::protocol::{CloseReason, ErrorCode, Refusal};
use crate::transport::config::OpenTo;
use crate::transport::credential;
use crate::transport::endpoints;
use crate::transport::http::origin;
use crate::transport::http::problem::method_not_allowed;
use crate::transport::http::request::{RequestBody, RequestContext};
use crate::transport::state::AppState;
use crate::transport::subscribe::websocket::max_hello_bytes;
use crate::transport::websocket::Handler;
use crate::transport::websocket::upgrade::Handshake;

pub const SUBPROTOCOL: &str = "lastmile.pair.v1";

/// Everything at and below `/v1/rooms`.
pub async fn handle(app: Arc<AppState>, call: RequestContext, body: impl RequestBody) -> Result<Response, Refusal> {
    // The same answer for an unknown room and for an invalid id, so that guesses learn nothing.
    let room = match call.path().strip_prefix("/v1/rooms").ok_or(ErrorCode::NotFound)? {
        "" => None,
        rest => Some(rest.strip_prefix('/').and_then(RoomId::parse).ok_or(ErrorCode::NotFound)?),
    };
    match (call.method(), room) {
        ("GET", room) => join(&app, &call, room, body).await,
        ("POST", None) => open::post(app, call, body).await,
        (_, None) => Ok(method_not_allowed(&endpoints::ROOMS)),
        (_, Some(_)) => Ok(method_not_allowed(&endpoints::ROOM)),
    }
}

async fn join(
    app: &Arc<AppState>,
    call: &RequestContext,
    room: Option<RoomId>,
    body: impl RequestBody,
) -> Result<Response, Refusal> {
    let handshake = Handshake::read(call)?;
    origin::check(app, call)?;
    // Joining needs no credential; one that is sent is checked, because it may allow opening.
    let (opener, principal) = match app.rooms_config.open {
        OpenTo::Anyone => (Opener::Anyone, None),
        OpenTo::Login => match credential::principal(app, call).await? {
            Some(principal) => (Opener::Anyone, Some(principal)),
            None => (Opener::Unknown, None),
        },
        OpenTo::Publisher if call.headers().contains_key("signature-input") => {
            (authorize(app, call, body, 0).await?.publisher.map_or(Opener::Unknown, Opener::Publisher), None)
        }
        OpenTo::Publisher => (Opener::Unknown, None),
    };
    let is_supported = handshake.accepts_protocol(SUBPROTOCOL);
    let (shared, caller) = (app.clone(), caller_of(app, call));
    let link_prefix = call.public_prefix().into();
    let protocol = is_supported.then_some(SUBPROTOCOL);
    Ok(handshake.accept_with(app, call, &app.room_connection_limits, protocol, move |connection| {
        if is_supported {
            connection.expect_hello(shared.limits.hello);
        } else {
            connection.close(CloseReason::UnsupportedProtocol);
        }
        let mut native = peer(shared, connection.clone(), caller, room);
        native.peer = native.peer.with_principal(principal);
        native.opener = opener;
        native.link_prefix = link_prefix;
        native
    }))
}

/// A peer that joins with the credential in its first text. It may not open a room.
fn peer(app: Arc<AppState>, connection: Arc<Connection>, caller: Caller, room: Option<RoomId>) -> Native {
    let sender = caller.sender.to_json().into();
    let peer = Peer::unknown(app, connection, caller);
    Native { peer, room, sender, opener: Opener::Unknown, link_prefix: Box::default(), pending: None }
}

/// The same for a client of another node.
pub fn remote_peer(app: Arc<AppState>, connection: Arc<Connection>, caller: Caller, room: Option<RoomId>) -> Native {
    connection.expect_hello(app.limits.hello);
    peer(app, connection, caller, room)
}

pub struct Native {
    peer: Peer,
    /// The room of the path. Without one, the short code names the room.
    room: Option<RoomId>,
    /// The peer's metadata as JSON.
    sender: Box<str>,
    opener: Opener,
    /// The path of the listener's `public_url`.
    link_prefix: Box<str>,
    pending: Option<Box<PendingJoin>>,
}

/// Whether this connection may open a room.
enum Opener {
    Unknown,
    /// Rooms are opened by anyone, or the principal is known, which revocations disconnect.
    Anyone,
    /// The publisher that signed the handshake.
    Publisher(Arc<Publisher>),
}

impl Opener {
    fn may_open(&self, app: &AppState) -> bool {
        match self {
            Self::Unknown => false,
            Self::Anyone => true,
            // The key may have been removed since the handshake.
            Self::Publisher(known) => app.policy.whitelist().renew(known, Now::read().unix()).is_ok(),
        }
    }
}

/// A first text whose step is not done yet.
struct PendingJoin {
    step: Step,
    /// That text and the later texts of the same read. No more is read until the step is done.
    texts: VecDeque<String>,
}

enum Step {
    /// The token of an `open`.
    Verifying(BoxFuture<'static, Result<Arc<Principal>, Refusal>>),
    Opening(BoxFuture<'static, Result<Opened, Refusal>>),
    /// The node that owns the room, if it is another one.
    LookingUp(BoxFuture<'static, Result<Option<String>, Refusal>>),
}

enum StepResult {
    Verified(Result<Arc<Principal>, Refusal>),
    Opened(Result<Opened, Refusal>),
    LookedUp(Result<Option<String>, Refusal>),
}

impl Step {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<StepResult> {
        match self {
            Self::Verifying(future) => future.as_mut().poll(cx).map(StepResult::Verified),
            Self::Opening(future) => future.as_mut().poll(cx).map(StepResult::Opened),
            Self::LookingUp(future) => future.as_mut().poll(cx).map(StepResult::LookedUp),
        }
    }
}

impl Native {
    /// The first text carries the credential for the room.
    fn on_first(&mut self, command: &RoomCommand<'_>, text: &str) -> Result<(), CloseReason> {
        if command.kind.0 == "open" {
            return self.open(command, text);
        }
        let credential = credential_of(command)?;
        match self.look_up(credential) {
            Some(lookup) => self.begin(Step::LookingUp(lookup), text),
            None => self.join(credential)?,
        }
        Ok(())
    }

    fn begin(&mut self, step: Step, text: &str) {
        self.pending = Some(Box::new(PendingJoin { step, texts: [text.to_owned()].into() }));
    }

    /// Looks up the owner node if it may be another one. An attempt with a code waits while many are wrong.
    fn look_up(&self, credential: Credential<'_>) -> Option<BoxFuture<'static, Result<Option<String>, Refusal>>> {
        let Peer { app, caller, .. } = &self.peer;
        // The client's node has looked it up for a remote peer.
        if caller.is_remote {
            return None;
        }
        let Some(cluster) = app.cluster_rooms.clone() else {
            let Credential::Code(_) = credential else { return None };
            // Too many wrong codes are refused when it is tried.
            let delay = app.rooms.code_attempt_delay(caller.address, Instant::now())?;
            let wait = async move {
                tokio::time::sleep(delay).await;
                Ok(None)
            };
            return (!delay.is_zero()).then(|| Box::pin(wait) as _);
        };
        let key = self.room.map(Key::Native);
        let is_local = key.as_ref().is_some_and(|key| app.rooms.has(key));
        if let Credential::Code(code) = credential {
            let is_local = is_local || (key.is_none() && app.rooms.has_code(code));
            let (code, address) = (code.to_owned(), caller.address);
            return Some(Box::pin(async move {
                let directory = &cluster.directory;
                tokio::time::sleep(directory.code_attempt_delay(address).await?).await;
                match key {
                    _ if is_local => Ok(None),
                    Some(key) => directory.lookup_owner(&key).await,
                    None => directory.lookup_code(&code).await,
                }
            }));
        }
        let key = key.filter(|_| !is_local)?;
        Some(Box::pin(async move { cluster.directory.lookup_owner(&key).await }))
    }

    fn join(&mut self, credential: Credential<'_>) -> Result<(), CloseReason> {
        let app = &self.peer.app;
        let joined = app.rooms.join_native(self.room, credential, self.peer.join_request(), Instant::now());
        if let (Credential::Code(_), Err(_), Some(cluster)) = (credential, &joined, app.cluster_rooms.clone()) {
            let address = self.peer.caller.address;
            // Refused even if the count fails.
            tokio::spawn(async move { cluster.directory.count_wrong_code(address).await });
        }
        let seat = joined?;
        if matches!(credential, Credential::Resume { .. }) {
            folded!(INFO, "", "seat resumed", connection = self.peer.connection.id, peer = seat.name());
        }
        self.peer.on_joined(JoinOutcome::Seated(seat))
    }

    /// Opens a room and joins it, for clients that make one connection only.
    fn open(&mut self, command: &RoomCommand<'_>, text: &str) -> Result<(), CloseReason> {
        let app = self.peer.app.clone();
        if self.room.is_some() {
            return Err(CloseReason::Malformed);
        }
        if !self.opener.may_open(&app) {
            // Browsers cannot set headers on a WebSocket, so the token may be in the message.
            let token = command.token.as_ref().filter(|_| app.rooms_config.open == OpenTo::Login);
            let token = token.ok_or(CloseReason::Unauthenticated)?.0.clone().into_owned();
            let verified = Box::pin(async move { credential::verify(&app, &token).await });
            self.begin(Step::Verifying(verified), text);
            return Ok(());
        }
        let code = match &command.code {
            None => None,
            Some(format) => Some(CodeFormat::of(&format.0).ok_or(CloseReason::Malformed)?),
        };
        let options = OpenOptions { max_seats: command.max_seats, code, codes_alive: 0 };
        let address = self.peer.caller.address;
        self.begin(Step::Opening(Box::pin(async move { open::open(&app, options, address).await })), text);
        Ok(())
    }

    fn on_opened(&mut self, opened: Result<Opened, Refusal>, id: Option<&str>) -> Result<(), CloseReason> {
        let opened = opened.map_err(|refusal| {
            self.reply(&RoomServerFrame::error(id, &refusal));
            CloseReason::from(refusal.code)
        })?;
        self.reply(&RoomServerFrame::Opened {
            room: &opened.room.to_string(),
            link: &open::link(&opened, &self.link_prefix),
            join_secret: &opened.join_secret,
            expires: opened.expires.as_deref(),
            code: opened.code.as_deref(),
            code_secs: opened.code.as_ref().map(|_| self.peer.app.rooms_config.limits.code.as_secs()),
        });
        self.room = Some(opened.room);
        self.join(Credential::Secret(&opened.join_secret))
    }

    /// Continues with the texts that waited for a step.
    fn on_step_result(&mut self, result: StepResult, mut texts: VecDeque<String>) -> Result<(), CloseReason> {
        match result {
            StepResult::Verified(principal) => {
                let principal = principal.map_err(|refusal| refusal.code)?;
                self.opener = Opener::Anyone;
                self.peer.set_principal(Some(principal));
            }
            StepResult::Opened(opened) => {
                let first = texts.pop_front().unwrap_or_default();
                let command = RoomCommand::parse(&first).map_err(|_| CloseReason::Malformed)?;
                self.on_opened(opened, command.id())?;
            }
            StepResult::LookedUp(Err(refusal)) if refusal.code == ErrorCode::RateLimited => {
                return Err(CloseReason::RateLimited);
            }
            StepResult::LookedUp(Err(_)) => return Err(CloseReason::EngineUnavailable),
            StepResult::LookedUp(Ok(Some(node))) => {
                // That node checks the credential, and its first frame admits the peer.
                self.peer.connection.end_hello();
                self.peer.on_joined(JoinOutcome::OtherNode(node, RoomTarget::Native(self.room)))?;
            }
            StepResult::LookedUp(Ok(None)) => {
                let first = texts.pop_front().unwrap_or_default();
                let command = RoomCommand::parse(&first).map_err(|_| CloseReason::Malformed)?;
                self.join(credential_of(&command)?)?;
            }
        }
        texts.iter().try_for_each(|text| self.on_text(text))
    }

    fn on_command(&mut self, command: &RoomCommand<'_>) -> Result<(), Refusal> {
        let malformed = |detail: &'static str| Refusal::new(ErrorCode::Malformed, detail);
        match command.kind.0.as_ref() {
            "message" => {
                let data = command.data.ok_or_else(|| malformed("`data` is missing"))?.get();
                self.message(command.id(), data)
            }
            "ping" => {
                self.reply(&RoomServerFrame::Pong { id: command.id() });
                Ok(())
            }
            "leave" => {
                if let Some(seat) = self.peer.take_seat() {
                    seat.leave();
                }
                self.peer.connection.close(CloseReason::Normal);
                Ok(())
            }
            "end" => {
                if let Some(seat) = self.peer.take_seat() {
                    seat.end_room();
                }
                Ok(())
            }
            "open" | "join" | "resume" => Err(malformed("already in a room")),
            other => Err(Refusal::new(ErrorCode::Malformed, format!("unknown type `{}`", other.escape_debug()))),
        }
    }

    fn message(&self, id: Option<&str>, data: &str) -> Result<(), Refusal> {
        let Some(seat) = self.peer.seat() else { return Ok(()) };
        let frame = |seq| text_frame(message(seq, seat.name(), id, data, &self.sender).as_bytes());
        match self.peer.relay(data.len(), frame) {
            Some(Relayed::NoPeer) => Err(ErrorCode::PeerAbsent.into()),
            // The end of a room closes this connection.
            Some(Relayed::Sent | Relayed::Ended) | None => Ok(()),
        }
    }

    fn reply(&self, reply: &RoomServerFrame<'_>) {
        self.peer.connection.send_text(&reply.to_json());
    }
}

impl Handler for Native {
    fn bounds(&self) -> Bounds {
        let bounds = self.peer.bounds();
        let has_token = self.peer.seat().is_none() && self.peer.app.rooms_config.open == OpenTo::Login;
        let open_bytes = if has_token { max_hello_bytes(&self.peer.app.limits) } else { 0 };
        Bounds { message_bytes: bounds.message_bytes.max(open_bytes), ..bounds }
    }

    fn on_frame(&mut self) -> Result<(), CloseReason> {
        self.peer.on_frame()
    }

    fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        if let Some(pending) = &mut self.pending {
            pending.texts.push_back(text.to_owned());
            return Ok(());
        }
        if let Some(forwarder) = self.peer.forwarder() {
            forwarder.forward(ClientFrame::Text(text.to_owned()));
            return Ok(());
        }
        let command = match RoomCommand::parse(text) {
            Ok(command) if self.peer.seat().is_none() => return self.on_first(&command, text),
            Ok(command) => command,
            Err(Unreadable::Refused(refusal)) if self.peer.seat().is_some() => {
                self.reply(&RoomServerFrame::error(None, &refusal));
                return Ok(());
            }
            Err(_) => return Err(CloseReason::Malformed),
        };
        if let Err(refusal) = self.on_command(&command) {
            self.reply(&RoomServerFrame::error(command.id(), &refusal));
        }
        Ok(())
    }

    /// A peer that closes normally, or without a code, leaves for good: its seat is freed.
    fn on_close(&mut self, payload: &[u8]) {
        const NORMAL: [u8; 2] = 1000u16.to_be_bytes();
        if let Some(forwarder) = self.peer.forwarder() {
            forwarder.forward(ClientFrame::Close(Base64Bytes(payload.to_owned())));
        } else if (payload.is_empty() || payload.starts_with(&NORMAL))
            && let Some(seat) = self.peer.take_seat()
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
        while let Some(pending) = &mut self.pending {
            let result = ready!(pending.step.poll(cx));
            let texts = self.pending.take().map(|pending| pending.texts).unwrap_or_default();
            if let Err(reason) = self.on_step_result(result, texts) {
                self.peer.connection.close(reason);
            }
        }
        self.peer.poll_ready(cx)
    }
}

/// The credential for a seat in a first text.
fn credential_of<'a>(command: &'a RoomCommand<'_>) -> Result<Credential<'a>, CloseReason> {
    match (command.kind.0.as_ref(), &command.secret, &command.code, &command.resume) {
        ("join", Some(secret), None, _) => Ok(Credential::Secret(&secret.0)),
        ("join", None, Some(code), _) => Ok(Credential::Code(&code.0)),
        ("resume", _, _, Some(resume)) => Ok(Credential::Resume { secret: &resume.0, seen: command.seen }),
        _ => Err(CloseReason::Malformed),
    }
}
