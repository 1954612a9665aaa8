//! `GET /v1/subscribe`: subscribers of our own protocol over WebSocket.

use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::upgrade::OnUpgrade;

use crate::broker::channel::session::rfc3339;
use crate::broker::connection::rate::RateLimit;
use crate::broker::engine::subscriber_slot;
use crate::broker::{Connection, Now, Principal, Session};
use crate::protocol::frame::command::{Command, Unreadable};
use crate::protocol::frame::server_frame::ServerFrame;
use crate::protocol::websocket::Bounds;
use crate::protocol::{CloseReason, ErrorCode, Form, Refusal};
use crate::transport::credential;
use crate::transport::http::origin;
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;
use crate::transport::websocket::sequencer::{CommandSequencer, HandleCommand};
use crate::transport::websocket::upgrade::Handshake;
use crate::transport::websocket::{Handler, RawSocket};

/// The subprotocol of subscribers and publishers.
pub const SUBPROTOCOL: &str = "lastmile.v1";

/// The first message: a token has at most 8 KiB.
const MAX_HELLO_BYTES: usize = 10 * 1024;

/// A burst of commands: a client may subscribe to all its channels at once.
const BURST: u32 = 10;

pub async fn upgrade(
    app: Arc<AppState>,
    call: RequestContext,
    upgrade: Option<OnUpgrade>,
) -> Result<warp::reply::Response, Refusal> {
    let mut handshake = Handshake::read(&call, upgrade)?;
    origin::check(&call)?;
    // A credential in the request is checked before the upgrade, so that a bad one gets a plain 401.
    let principal = credential::principal(&app, &call).await?;
    if !handshake.speaks(SUBPROTOCOL) {
        let response = handshake.accept(&app, &call, None, |connection| {
            connection.close(CloseReason::UnsupportedProtocol);
            Refused
        });
        return Ok(response);
    }
    let form = handshake.negotiate_compression(&call)?;
    let shared = app.clone();
    Ok(handshake.accept(&app, &call, Some(SUBPROTOCOL), move |connection| {
        let mut commander =
            CommandHandler { app: shared, connection: connection.clone(), form, session: None, is_fresh: false };
        match principal {
            Some(principal) => {
                commander.welcome(Some(principal));
                commander.is_fresh = true;
            }
            None => connection.expect_hello(commander.app.limits.hello),
        }
        Subscriber::new(commander)
    }))
}

/// The connection's task side: counts frames, hands messages on, looks at the policy again when woken.
struct Subscriber {
    app: Arc<AppState>,
    connection: Arc<Connection<RawSocket>>,
    commands: CommandSequencer<CommandHandler>,
    /// As of the last message that was carried out.
    principal: Option<Arc<Principal>>,
    frames: RateLimit,
    /// The policy that the principal was checked against, and the one that the subscriptions were.
    checked: u64,
    rechecked: u64,
}

impl Subscriber {
    fn new(commander: CommandHandler) -> Self {
        let (app, connection) = (commander.app.clone(), commander.connection.clone());
        let rate = app.limits.max_commands_per_second;
        let generation = app.policy.generation();
        Self {
            app,
            connection,
            principal: commander.principal().cloned(),
            commands: CommandSequencer::Idle(commander),
            frames: RateLimit::new(rate, rate.saturating_mul(BURST)),
            // Something may have been taken back since the credential was looked at.
            checked: 0,
            rechecked: generation,
        }
    }

    /// Follows what the last message changed, and rechecks what a message in between held up.
    fn settle(&mut self) -> Result<(), CloseReason> {
        if let Some(commander) = self.commands.idle() {
            if !same(self.principal.as_ref(), commander.principal()) {
                self.principal = commander.principal().cloned();
                self.checked = 0;
            }
            let generation = self.app.policy.generation();
            if std::mem::replace(&mut self.rechecked, generation) != generation
                && let Some(session) = &mut commander.session
            {
                session.recheck();
            }
        }
        let generation = self.app.policy.generation();
        if std::mem::replace(&mut self.checked, generation) != generation
            && let Some(principal) = &self.principal
        {
            self.app.policy.check(principal)?;
        }
        Ok(())
    }
}

fn same(one: Option<&Arc<Principal>>, other: Option<&Arc<Principal>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

impl Handler for Subscriber {
    fn bounds(&self) -> Bounds {
        // Before it is known who this is, there is room for a token and little else.
        let is_known = matches!(&self.commands, CommandSequencer::Idle(CommandHandler { session: Some(_), .. }));
        let max = self.app.limits.max_command_bytes;
        let message_bytes = if is_known { max } else { MAX_HELLO_BYTES.min(max) };
        Bounds { message_bytes, fragments: self.app.limits.max_fragments }
    }

    fn on_frame(&mut self) -> Result<(), CloseReason> {
        self.frames.try_take(Now::read().monotonic).map_err(|_| CloseReason::RateLimited)
    }

    fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        self.connection.begin_batch();
        self.commands.on_text(text)?;
        self.settle()
    }

    fn on_read_end(&mut self) {
        // All answers to what came at once go out at once.
        self.connection.end_batch();
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.commands, CommandSequencer::Busy(_)) {
            let done = std::task::ready!(self.commands.poll(cx)).and_then(|()| self.settle());
            if let Err(reason) = done {
                self.connection.close(reason);
            }
        }
        Poll::Ready(())
    }

    fn on_wake(&mut self) -> Result<(), CloseReason> {
        self.settle()
    }
}

/// Carries out what a subscriber says.
struct CommandHandler {
    app: Arc<AppState>,
    connection: Arc<Connection<RawSocket>>,
    form: Form,
    /// `None` until the first message says who this is.
    session: Option<Session>,
    /// Welcomed for the handshake's credential, and nothing was said since.
    is_fresh: bool,
}

impl HandleCommand for CommandHandler {
    async fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        match Command::parse(text) {
            Ok(command) if self.session.is_none() => return self.on_first(&command).await,
            Ok(command) if std::mem::take(&mut self.is_fresh) && command.kind.0 == "hello" => {
                return self.on_late_hello(&command).await;
            }
            Ok(command) => self.on_command(&command).await,
            Err(Unreadable::Refused(refusal)) if self.session.is_some() => {
                self.connection.send_text(&ServerFrame::error(None, &refusal).to_json());
            }
            Err(_) => return Err(CloseReason::Malformed),
        }
        Ok(())
    }
}

impl CommandHandler {
    fn principal(&self) -> Option<&Arc<Principal>> {
        self.session.as_ref()?.principal()
    }

    fn welcome(&mut self, principal: Option<Arc<Principal>>) {
        let welcome = ServerFrame::Welcome {
            connection: &format!("c-{:x}", self.connection.id),
            ping_secs: self.app.connection_limits.ping.as_secs(),
            principal: principal.as_ref().map(|principal| &*principal.subject),
            expires: principal.as_ref().map(|principal| rfc3339(principal.expires)),
        };
        self.connection.send_text(&welcome.to_json());
        let session = Session::new(self.connection.clone(), self.app.channels(), principal);
        self.session = Some(session.with_form(self.form));
    }

    /// The first message: `hello`, or any command of a client that brings no token.
    async fn on_first(&mut self, command: &Command<'_>) -> Result<(), CloseReason> {
        let is_hello = command.kind.0 == "hello";
        let principal = match command.token().filter(|_| is_hello) {
            Some(token) => Some(credential::verify(&self.app, token).await.map_err(|_| CloseReason::Unauthenticated)?),
            None => None,
        };
        self.welcome(principal);
        if !is_hello {
            self.on_command(command).await;
        }
        Ok(())
    }

    /// The first message of a client that was welcomed already. It cannot know that its browser sent a cookie along, so
    /// it may still say `hello`: with a token, that one decides; without, nothing changes.
    async fn on_late_hello(&mut self, command: &Command<'_>) -> Result<(), CloseReason> {
        if command.token().is_some() { self.on_first(command).await } else { Ok(()) }
    }

    async fn on_command(&mut self, command: &Command<'_>) {
        let Self { app, session: Some(session), .. } = self else { return };
        let done = match command.kind.0.as_ref() {
            "refresh" => refresh(app, session, command).await,
            "subscribe" => subscribe(app, session, command).await,
            _ => session.on_command(command),
        };
        if let Err(refusal) = done {
            session.refuse(command.id(), &refusal);
        }
    }
}

async fn refresh(app: &AppState, session: &mut Session, command: &Command<'_>) -> Result<(), Refusal> {
    let token = command.token().ok_or(Refusal::new(ErrorCode::Malformed, "`token` is missing"))?;
    let principal = credential::verify(app, token).await?;
    session.refresh(command.id(), principal)
}

async fn subscribe(app: &AppState, session: &mut Session, command: &Command<'_>) -> Result<(), Refusal> {
    let channel = session.may_subscribe(command)?;
    let _place = subscriber_slot(&*app.engine, &channel).await?;
    session.subscribe(command, Now::read())
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
