//! `GET /v1/subscribe`: subscribers over WebSocket, subprotocol `lastmile.v1`.

use std::sync::Arc;
use std::task::{Context, Poll};

use crate::broker::channel::session::rfc3339;
use crate::broker::connection::rate::RateLimit;
use crate::broker::engine::subscriber_slot;
use crate::broker::{Connection, Holder, Now, Principal, Session};
use crate::protocol::frame::command::{Command, Unreadable};
use crate::protocol::frame::server_frame::ServerFrame;
use crate::protocol::websocket::Bounds;
use crate::protocol::{CloseReason, ErrorCode, Form, Refusal};
use crate::transport::config::TransportLimits;
use crate::transport::credential;
use crate::transport::credential::policy_watch::PolicyWatch;
use crate::transport::http::origin;
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;
use crate::transport::websocket::sequencer::{CommandSequencer, HandleCommand};
use crate::transport::websocket::upgrade::Handshake;
use crate::transport::websocket::{Handler, RawSocket};

/// The subprotocol of subscribers and publishers.
pub const SUBPROTOCOL: &str = "lastmile.v1";

/// Bytes of the first message without its token.
const BESIDE_TOKEN_BYTES: usize = 2048;

pub async fn upgrade(app: Arc<AppState>, call: RequestContext) -> Result<warp::reply::Response, Refusal> {
    let mut handshake = Handshake::read(&call)?;
    origin::check(&app, &call)?;
    // A credential in the request is checked before the upgrade, so that a bad one gets a plain 401.
    let principal = credential::principal(&app, &call).await?;
    if !handshake.accepts_protocol(SUBPROTOCOL) {
        let response = handshake.accept(&app, &call, None, |connection| {
            connection.close(CloseReason::UnsupportedProtocol);
            Refused
        });
        return Ok(response);
    }
    let form = handshake.negotiate_compression(&call)?;
    let (shared, address) = (app.clone(), call.holder());
    Ok(handshake.accept(&app, &call, Some(SUBPROTOCOL), move |connection| {
        let mut handler = CommandHandler {
            app: shared,
            connection: connection.clone(),
            address,
            form,
            session: None,
            is_fresh: false,
        };
        match principal {
            Some(principal) => {
                handler.welcome(Some(principal));
                handler.is_fresh = true;
            }
            None => connection.expect_hello(handler.app.limits.hello),
        }
        Subscriber::new(handler)
    }))
}

/// Size of the first message. A token that is up to twice as long as allowed is a bad token, not a large message.
pub fn max_hello_bytes(limits: &TransportLimits) -> usize {
    2 * limits.max_token_bytes + BESIDE_TOKEN_BYTES
}

/// The connection's handler: limits the frame rate, queues commands, and checks the policy again when woken.
struct Subscriber {
    app: Arc<AppState>,
    connection: Arc<Connection<RawSocket>>,
    commands: CommandSequencer<CommandHandler>,
    /// The principal after the last command.
    principal: Option<Arc<Principal>>,
    frame_rate: RateLimit,
    principal_watch: PolicyWatch,
    session_watch: PolicyWatch,
}

impl Subscriber {
    fn new(handler: CommandHandler) -> Self {
        let (app, connection) = (handler.app.clone(), handler.connection.clone());
        Self {
            // A revocation may have arrived since the credential was verified.
            principal_watch: PolicyWatch::due(),
            session_watch: PolicyWatch::current(&app.policy),
            frame_rate: app.limits.frame_rate(),
            app,
            connection,
            principal: handler.principal().cloned(),
            commands: CommandSequencer::Idle(handler),
        }
    }

    /// Checks the principal and the subscriptions again if the last command or the policy changed. A running command
    /// delays the check of the subscriptions.
    fn recheck(&mut self) -> Result<(), CloseReason> {
        if let Some(handler) = self.commands.idle() {
            if self.principal.as_ref().map(Arc::as_ptr) != handler.principal().map(Arc::as_ptr) {
                self.principal = handler.principal().cloned();
                self.principal_watch = PolicyWatch::due();
            }
            if self.session_watch.is_due(&self.app.policy)
                && let Some(session) = &mut handler.session
            {
                session.recheck();
            }
        }
        if self.principal_watch.is_due(&self.app.policy)
            && let Some(principal) = &self.principal
        {
            self.app.policy.check(principal)?;
        }
        Ok(())
    }
}

impl Handler for Subscriber {
    fn bounds(&self) -> Bounds {
        // Before the first message, there is room for a token and little else.
        let is_known = matches!(&self.commands, CommandSequencer::Idle(CommandHandler { session: Some(_), .. }));
        let max = self.app.limits.max_command_bytes;
        let message_bytes = if is_known { max } else { max_hello_bytes(&self.app.limits).min(max) };
        Bounds { message_bytes, fragments: self.app.limits.max_fragments }
    }

    fn on_frame(&mut self) -> Result<(), CloseReason> {
        self.frame_rate.try_take(Now::read().monotonic).map_err(|_| CloseReason::RateLimited)
    }

    fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        self.connection.begin_batch();
        self.commands.on_text(text)?;
        self.recheck()
    }

    fn on_read_end(&mut self) {
        // The responses to all commands of one read are sent together.
        self.connection.end_batch();
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.commands, CommandSequencer::Busy(_)) {
            let done = std::task::ready!(self.commands.poll(cx)).and_then(|()| self.recheck());
            if let Err(reason) = done {
                self.connection.close(reason);
            }
        }
        Poll::Ready(())
    }

    fn on_wake(&mut self) -> Result<(), CloseReason> {
        self.recheck()
    }
}

/// Executes a subscriber's commands.
struct CommandHandler {
    app: Arc<AppState>,
    connection: Arc<Connection<RawSocket>>,
    address: Holder,
    form: Form,
    /// `None` until the first message.
    session: Option<Session>,
    /// The welcome was sent for the handshake's credential, and no command has followed.
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
        let session = Session::new(self.connection.clone(), self.app.channels(), principal, self.address);
        self.session = Some(session.with_form(self.form));
    }

    /// The first message: `hello`, or any command of a client without a token.
    async fn on_first(&mut self, command: &Command<'_>) -> Result<(), CloseReason> {
        let is_hello = command.kind.0 == "hello";
        let principal = match command.token().filter(|_| is_hello) {
            Some(token) => Some(credential::verify(&self.app, token).await.map_err(|refusal| refusal.code)?),
            None => None,
        };
        self.welcome(principal);
        if !is_hello {
            self.on_command(command).await;
        }
        Ok(())
    }

    /// A `hello` after the welcome: the client cannot know that its browser sent a cookie. A token in it decides;
    /// without one nothing changes.
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
    let _slot = subscriber_slot(&*app.engine, &channel, session.holder()).await?;
    session.subscribe(command, Now::read())
}

/// The handler of a connection that is closed at once.
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
