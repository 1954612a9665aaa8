//! The role `tslm`: unchanged clients of the TSLM last-mile, on any path of the listener.

use std::sync::Arc;
use std::task::{Context, Poll};

use subtle::ConstantTimeEq;

use crate::broker::channel::subscriptions::Subscriptions;
use crate::broker::connection::rate::RateLimit;
use crate::broker::engine::{Appended, Start, stored, subscriber_slot};
use crate::broker::{Connection, Holder, JoinRequest, Now};
use crate::protocol::compat::tslm::{Command, Content, ServerFrame};
use crate::protocol::websocket::Bounds;
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Form, Payload, Refusal};
use crate::transport::config::ListenerConfig;
use crate::transport::credential::policy_watch::PolicyWatch;
use crate::transport::http::origin;
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;
use crate::transport::websocket::sequencer::{CommandSequencer, HandleCommand};
use crate::transport::websocket::upgrade::Handshake;
use crate::transport::websocket::{Handler, RawSocket};

pub fn upgrade(app: &Arc<AppState>, call: &RequestContext) -> Result<warp::reply::Response, Refusal> {
    let handshake = Handshake::read(call)?;
    origin::check(app, call)?;
    let listener = call.peer().listener.clone();
    // A browser can send its token only as a subprotocol, and then requires this one in the response.
    let token = present_token(&listener.tslm.auth_tokens, call, handshake.offered())?;
    let (shared, holder) = (app.clone(), call.holder());
    Ok(handshake.accept(app, call, token.as_deref(), move |connection| {
        connection.set_authenticated(None);
        Tslm::new(shared, connection.clone(), listener, holder)
    }))
}

/// The client's token; `None` if the listener requires none.
fn present_token(accepted: &[String], call: &RequestContext, offered: &[String]) -> Result<Option<String>, Refusal> {
    if accepted.is_empty() {
        return Ok(None);
    }
    let is_accepted = |token: &str| {
        // All tokens are compared, so that the time does not depend on which one matches.
        accepted.iter().fold(false, |found, accepted| found | bool::from(accepted.as_bytes().ct_eq(token.as_bytes())))
    };
    let bearer = call.bearer().filter(|token| is_accepted(token)).map(str::to_owned);
    bearer
        .or_else(|| offered.iter().find(|token| is_accepted(token)).cloned())
        .map(Some)
        .ok_or_else(|| Refusal::new(ErrorCode::Unauthenticated, "the listener requires one of its tokens"))
}

/// The connection's handler.
struct Tslm {
    app: Arc<AppState>,
    connection: Arc<Connection<RawSocket>>,
    listener: Arc<ListenerConfig>,
    commands: CommandSequencer<CommandHandler>,
    /// `None` if the listener's own rate replaces it, or if clients may publish.
    frame_rate: Option<RateLimit>,
    policy_watch: PolicyWatch,
}

/// Executes a client's commands.
struct CommandHandler {
    app: Arc<AppState>,
    connection: Arc<Connection<RawSocket>>,
    listener: Arc<ListenerConfig>,
    holder: Holder,
    frame_rate: Option<RateLimit>,
    subscriptions: Subscriptions,
    /// The channel that was allowed last, with the policy generation: most clients publish to one.
    allowed: Option<(ChannelName, u64)>,
}

impl Tslm {
    fn new(
        app: Arc<AppState>,
        connection: Arc<Connection<RawSocket>>,
        listener: Arc<ListenerConfig>,
        holder: Holder,
    ) -> Self {
        let rate = listener.tslm.rate_limit_per_second;
        let frame_rate = (rate == 0 && !listener.tslm.notify_channel).then(|| app.limits.frame_rate());
        let handler = CommandHandler {
            app: app.clone(),
            connection: connection.clone(),
            listener: listener.clone(),
            holder,
            frame_rate: (rate > 0).then(|| RateLimit::new(rate, rate)),
            subscriptions: Subscriptions::default(),
            allowed: None,
        };
        Self {
            policy_watch: PolicyWatch::current(&app.policy),
            app,
            connection,
            listener,
            commands: CommandSequencer::Idle(handler),
            frame_rate,
        }
    }

    /// The protocol has no message for a subscription that the gateway ends, so the connection is closed.
    fn recheck(&mut self) -> Result<(), CloseReason> {
        let Some(handler) = self.commands.idle().filter(|_| self.policy_watch.is_due(&self.app.policy)) else {
            return Ok(());
        };
        let rules = self.app.policy.rules().load();
        if handler.subscriptions.any(|channel| rules.of(channel).is_restricted()) {
            Err(CloseReason::Forbidden)
        } else {
            Ok(())
        }
    }
}

impl CommandHandler {
    async fn on_command(&mut self, command: &Command) -> Result<(), ServerFrame> {
        let allowed = &self.listener.tslm;
        match command {
            Command::CreateChannel(_) if !allowed.create_channel => Err(denied("CreateChannel")),
            Command::Subscribe(_) if !allowed.subscribe => Err(denied("Subscribe")),
            Command::NotifyChannel(..) if !allowed.notify_channel => Err(denied("NotifyChannel")),
            Command::CreateChannel(channel) => self.create(channel).await,
            Command::Subscribe(channel) => self.subscribe(channel).await,
            Command::NotifyChannel(channel, content) => self.notify(channel, content).await,
        }
    }

    async fn create(&mut self, channel: &str) -> Result<(), ServerFrame> {
        let name = named(channel)?;
        if !self.may_publish(&name) {
            return Err(denied("CreateChannel"));
        }
        let state = self.app.engine.describe(&name).await.map_err(|refusal| error(&refusal))?;
        if state.is_some_and(|state| !state.is_waiting) {
            return Err(ServerFrame::Error(format!("Channel '{channel}' is already registered")));
        }
        self.app.engine.create(&name, None, Now::read()).await.map(|_| ()).map_err(|refusal| error(&refusal))
    }

    async fn subscribe(&mut self, channel: &str) -> Result<(), ServerFrame> {
        let name = self.existing_channel(channel).await?;
        // The listener's permission replaces a valid token, but not the claims that a channel requires.
        if self.app.policy.rules().load().of(&name).is_restricted() {
            return Err(denied("Subscribe"));
        }
        let tag = match self.subscriptions.prepare(&name, self.app.max_subscriptions) {
            Ok(tag) => tag,
            // Subscribing again changes nothing, unless the channel was closed meanwhile.
            Err(refusal) if refusal.code == ErrorCode::AlreadySubscribed => return Ok(()),
            Err(_) => return Err(ServerFrame::Error("Too many subscriptions".into())),
        };
        let holder = self.holder;
        let _slot = subscriber_slot(&*self.app.engine, &name, holder).await.map_err(|refusal| error(&refusal))?;
        let request =
            JoinRequest { connection: self.connection.clone(), principal: None, holder, form: Form::Tslm, tag };
        let membership = self
            .app
            .engine
            .subscribe(&name, request, Start::Live, Now::read(), &mut |_| {})
            .map_err(|refusal| error(&refusal))?;
        self.subscriptions.insert(membership);
        Ok(())
    }

    async fn notify(&mut self, channel: &str, content: &Content) -> Result<(), ServerFrame> {
        if named(channel).is_ok_and(|name| !self.may_publish(&name)) {
            return Err(denied("NotifyChannel"));
        }
        let name = self.existing_channel(channel).await?;
        let publisher = format!("tslm:{}", self.listener.name);
        let json;
        let payload = match content {
            Content::Text(text) => Payload::Text(text),
            Content::Json(value) => {
                json = value.to_string();
                Payload::Json(&json)
            }
        };
        let appended = self.app.engine.append(&name, &publisher, payload, Now::read());
        let backpressure = match appended.map_err(|refusal| error(&refusal))? {
            Appended::Done(accepted) => accepted.deliveries.run(),
            Appended::Pending(answer) => stored(answer).await.map_err(|refusal| error(&refusal))?.backpressure,
        };
        if let Some(backpressure) = backpressure {
            backpressure.wait().await;
        }
        // A publisher that is subscribed receives its own message before the response.
        if let Some(membership) = self.subscriptions.get(&name) {
            membership.catch_up();
        }
        Ok(())
    }

    /// Whether the listener's clients may create the channel and publish to it.
    fn may_publish(&mut self, channel: &ChannelName) -> bool {
        let policy = &self.app.policy;
        let generation = policy.generation();
        if self.allowed.as_ref().is_some_and(|(known, checked)| known == channel && *checked == generation) {
            return true;
        }
        let listed = self.listener.channels.as_deref().unwrap_or_default();
        let is_allowed = policy.whitelist().leaves_to(listed, channel);
        if is_allowed {
            self.allowed = Some((channel.clone(), generation));
        }
        is_allowed
    }

    /// The protocol knows only channels that were created.
    async fn existing_channel(&self, channel: &str) -> Result<ChannelName, ServerFrame> {
        let not_found = || ServerFrame::Error(format!("Channel not found: {channel}"));
        let name = ChannelName::from_dialect(channel).map_err(|_| not_found())?;
        let state = self.app.engine.describe(&name).await.map_err(|refusal| error(&refusal))?;
        state.map(|_| name).ok_or_else(not_found)
    }

    fn is_over_rate(&mut self) -> bool {
        self.frame_rate.as_mut().is_some_and(|frame_rate| frame_rate.try_take(Now::read().monotonic).is_err())
    }
}

impl HandleCommand for CommandHandler {
    async fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        let reply = if self.is_over_rate() {
            ServerFrame::Error("Rate limit exceeded".into())
        } else {
            match Command::parse(text) {
                Ok(command) => match self.on_command(&command).await {
                    Ok(()) => command.success(),
                    Err(reply) => reply,
                },
                Err(reply) => reply,
            }
        };
        self.connection.send(&reply.frame());
        Ok(())
    }
}

impl Handler for Tslm {
    fn bounds(&self) -> Bounds {
        let message_bytes = usize::try_from(self.listener.tslm.max_message_size).unwrap_or(usize::MAX);
        Bounds { message_bytes, fragments: self.app.limits.max_fragments }
    }

    fn on_frame(&mut self) -> Result<(), CloseReason> {
        let Some(frame_rate) = &mut self.frame_rate else { return Ok(()) };
        frame_rate.try_take(Now::read().monotonic).map_err(|_| CloseReason::RateLimited)
    }

    fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        self.commands.on_text(text)?;
        self.recheck()
    }

    fn on_wake(&mut self) -> Result<(), CloseReason> {
        self.recheck()
    }

    fn on_binary(&mut self, _bytes: &[u8]) -> Result<(), CloseReason> {
        let is_over_rate = self.commands.idle().is_some_and(CommandHandler::is_over_rate);
        let reply = if is_over_rate { "Rate limit exceeded" } else { "Binary messages not supported" };
        self.connection.send(&ServerFrame::Error(reply.into()).frame());
        Ok(())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Err(reason) = std::task::ready!(self.commands.poll(cx)) {
            self.connection.close(reason);
        }
        Poll::Ready(())
    }
}

fn named(channel: &str) -> Result<ChannelName, ServerFrame> {
    ChannelName::from_dialect(channel).map_err(|error| ServerFrame::Error(error.to_string()))
}

fn denied(command: &str) -> ServerFrame {
    ServerFrame::Error(format!("Permission denied: {command}"))
}

fn error(refusal: &Refusal) -> ServerFrame {
    ServerFrame::Error(refusal.detail.to_string())
}
