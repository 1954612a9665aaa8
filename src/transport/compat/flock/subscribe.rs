//! `GET /ws` of the role `flock`: subscribers without credentials.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::broker::channel::subscriptions::Subscriptions;
use crate::broker::connection::rate::RateLimit;
use crate::broker::engine::{Joined, Start, subscriber_slot};
use crate::broker::{Connection, ConnectionLimits, Holder, JoinRequest, Now};
use crate::ops::log::folded;
use crate::protocol::compat::flock::{Command, response_frame};
use crate::protocol::websocket::{Bounds, pong_frame};
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Form, Refusal};
use crate::transport::config::ListenerConfig;
use crate::transport::credential::policy_watch::PolicyWatch;
use crate::transport::http::origin;
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;
use crate::transport::websocket::sequencer::{CommandSequencer, HandleCommand};
use crate::transport::websocket::upgrade::Handshake;
use crate::transport::websocket::{Handler, RawSocket};

/// A silent client is disconnected after this.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The limits of such a connection: it is never pinged, as in the older system.
pub fn connection_limits(limits: &ConnectionLimits) -> ConnectionLimits {
    let close_silent_without_ping = Some((1000, "ping timeout"));
    ConnectionLimits { ping: IDLE_TIMEOUT, pong: Duration::ZERO, close_silent_without_ping, ..*limits }
}

pub fn upgrade(app: &Arc<AppState>, call: &RequestContext) -> Result<warp::reply::Response, Refusal> {
    let handshake = Handshake::read(call)?;
    origin::check(app, call)?;
    let (shared, listener, holder) = (app.clone(), call.peer().listener.clone(), call.holder());
    Ok(handshake.accept_with(app, call, &app.flock_connection_limits, None, move |connection| {
        connection.set_authenticated(None);
        Flock::new(shared, connection.clone(), listener, holder)
    }))
}

/// The connection's handler.
struct Flock {
    app: Arc<AppState>,
    connection: Arc<Connection<RawSocket>>,
    commands: CommandSequencer<CommandHandler>,
    frame_rate: RateLimit,
    policy_watch: PolicyWatch,
}

/// Executes a client's commands.
struct CommandHandler {
    app: Arc<AppState>,
    connection: Arc<Connection<RawSocket>>,
    listener: Arc<ListenerConfig>,
    holder: Holder,
    subscriptions: Subscriptions,
}

impl Flock {
    fn new(
        app: Arc<AppState>,
        connection: Arc<Connection<RawSocket>>,
        listener: Arc<ListenerConfig>,
        holder: Holder,
    ) -> Self {
        let frame_rate = app.limits.frame_rate();
        let handler = CommandHandler {
            app: app.clone(),
            connection: connection.clone(),
            listener,
            holder,
            subscriptions: Subscriptions::default(),
        };
        Self {
            policy_watch: PolicyWatch::current(&app.policy),
            app,
            connection,
            commands: CommandSequencer::Idle(handler),
            frame_rate,
        }
    }

    /// The protocol has no message for a subscription that the gateway ends, so the connection is closed. Its client
    /// reconnects and gets a response for each topic.
    fn recheck(&mut self) -> Result<(), CloseReason> {
        let Some(handler) = self.commands.idle().filter(|_| self.policy_watch.is_due(&self.app.policy)) else {
            return Ok(());
        };
        let is_lost = |channel: &ChannelName| handler.check_audience(channel).is_err();
        if handler.subscriptions.any(is_lost) { Err(CloseReason::Forbidden) } else { Ok(()) }
    }
}

impl CommandHandler {
    /// Sends the response when the subscription is in force, before its first event.
    async fn subscribe(&mut self, request_id: &str, topic: &str) -> Result<(), Refusal> {
        let channel = ChannelName::from_topic(topic).map_err(|_| Refusal::from(ErrorCode::ChannelInvalid))?;
        self.check_audience(&channel)?;
        let tag = match self.subscriptions.prepare(&channel, self.app.max_subscriptions) {
            Ok(tag) => tag,
            Err(refusal) if refusal.code == ErrorCode::AlreadySubscribed => {
                self.respond(request_id, true, topic);
                return Ok(());
            }
            Err(refusal) => return Err(refusal),
        };
        let _slot = subscriber_slot(&*self.app.engine, &channel, self.holder).await?;
        // The rules may have changed meanwhile.
        self.check_audience(&channel)?;
        let (connection, holder) = (self.connection.clone(), self.holder);
        let request = JoinRequest { connection, principal: None, holder, form: Form::Flock, tag };
        let mut on_joined = |_: Joined<'_>| self.respond(request_id, true, topic);
        let membership = self.app.engine.subscribe(&channel, request, Start::Live, Now::read(), &mut on_joined)?;
        self.subscriptions.insert(membership);
        Ok(())
    }

    fn unsubscribe(&mut self, topic: &str) {
        if let Ok(channel) = ChannelName::from_topic(topic) {
            self.subscriptions.remove(&channel);
        }
    }

    /// A listener that vouches for its clients replaces a valid token, but not the claims that a channel requires.
    fn check_audience(&self, channel: &ChannelName) -> Result<(), Refusal> {
        let rules = self.app.policy.rules().load();
        let is_vouched_for = self.listener.flock_vouches && !rules.of(channel).is_restricted();
        if is_vouched_for || rules.may_subscribe(channel, None) { Ok(()) } else { Err(ErrorCode::Forbidden.into()) }
    }

    fn respond(&self, request_id: &str, subscribed: bool, topic: &str) {
        self.connection.send(&response_frame(request_id, subscribed, topic));
    }
}

impl HandleCommand for CommandHandler {
    async fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        match Command::parse(text) {
            Ok(Command::Subscribe { request_id, topic }) => {
                if let Err(refusal) = self.subscribe(&request_id, &topic).await {
                    folded!(DEBUG, refusal.code.slug(), "flock subscription refused", %refusal);
                    self.respond(&request_id, false, &topic);
                }
            }
            Ok(Command::Unsubscribe { request_id, topic }) => {
                self.unsubscribe(&topic);
                self.respond(&request_id, false, &topic);
            }
            Ok(Command::Ping) => {
                self.connection.send(&pong_frame(&[]));
            }
            Err(error) => {
                self.connection.close_with(CloseReason::Malformed, 1007, &error);
                return Err(CloseReason::Malformed);
            }
        }
        Ok(())
    }
}

impl Handler for Flock {
    fn bounds(&self) -> Bounds {
        Bounds { message_bytes: self.app.limits.max_command_bytes, fragments: self.app.limits.max_fragments }
    }

    fn on_frame(&mut self) -> Result<(), CloseReason> {
        self.frame_rate.try_take(Now::read().monotonic).map_err(|_| CloseReason::RateLimited)
    }

    fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        self.commands.on_text(text)?;
        self.recheck()
    }

    /// Ignored, as in the older system.
    fn on_binary(&mut self, _bytes: &[u8]) -> Result<(), CloseReason> {
        Ok(())
    }

    fn on_close(&mut self, _payload: &[u8]) {
        self.connection.close_with(CloseReason::Normal, 1000, "closed by server");
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
