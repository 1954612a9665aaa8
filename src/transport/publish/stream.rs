//! `GET /v1/publish`: a signed handshake, then pipelined publications as JSON frames.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use warp::reply::Response;

use super::ordered_answers::{DueStep, OrderedAnswers, PendingAnswer};
use super::{authenticate, check_channel};
use crate::auth::publisher::Publisher;
use crate::broker::channel::delivery::Deliveries;
use crate::broker::channel::fanout::Backpressure;
use crate::broker::channel::presence::PresenceSubscription;
use crate::broker::engine::Appended;
use crate::broker::replies::ReplyInbox;
use crate::broker::{Connection, Now};
use crate::cluster::presence;
use crate::protocol::frame::command::{Command, Unreadable};
use crate::protocol::frame::server_frame::{ServerFrame, published};
use crate::protocol::websocket::{Bounds, text_frame};
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Payload, Refusal};
use crate::transport::credential::policy_watch::PolicyWatch;
use crate::transport::http::origin;
use crate::transport::http::request::{RequestBody, RequestContext};
use crate::transport::state::AppState;
use crate::transport::subscribe::websocket::SUBPROTOCOL;
use crate::transport::websocket::upgrade::Handshake;
use crate::transport::websocket::{Handler, RawSocket};

pub async fn upgrade(app: Arc<AppState>, call: RequestContext, body: impl RequestBody) -> Result<Response, Refusal> {
    let mut handshake = Handshake::read(&call)?;
    origin::check(&app, &call)?;
    let publisher = authenticate(&app, &call, body, 0).await?.publisher;
    handshake.negotiate_compression(&call)?;
    let shared = app.clone();
    Ok(handshake.accept(&app, &call, Some(SUBPROTOCOL), move |connection| {
        connection.set_authenticated(None);
        connection.expire_at(publisher.expires(), CloseReason::Revoked);
        connection.set_subject(publisher.name().clone());
        let welcome = ServerFrame::Welcome {
            connection: &format!("c-{:x}", connection.id),
            ping_secs: shared.connection_limits.ping.as_secs(),
            principal: Some(publisher.name()),
            expires: publisher.not_after().map(|end| end.to_string()),
        };
        connection.send_text(&welcome.to_json());
        PublishStream::new(shared, connection.clone(), publisher)
    }))
}

struct PublishStream {
    app: Arc<AppState>,
    connection: Arc<Connection<RawSocket>>,
    publisher: Arc<Publisher>,
    policy_watch: PolicyWatch,
    /// The channel of the last publication: most publishers use few.
    channel: Option<ChannelName>,
    /// Receives replies until the connection ends.
    inbox: Option<ReplyInbox>,
    watched: Vec<PresenceSubscription>,
    answers: OrderedAnswers,
    /// The deliveries of one read's publications.
    deliveries: Deliveries,
    /// Subscribers are too far behind: no more is read until this future is done.
    backpressure: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl PublishStream {
    fn new(app: Arc<AppState>, connection: Arc<Connection<RawSocket>>, publisher: Arc<Publisher>) -> Self {
        let inbox = Some(app.replies.attach(publisher.name().clone(), connection.clone()));
        Self {
            // The key may have been removed since the handshake.
            policy_watch: PolicyWatch::due(),
            app,
            connection,
            publisher,
            inbox,
            watched: Vec::new(),
            channel: None,
            answers: OrderedAnswers::default(),
            deliveries: Deliveries::default(),
            backpressure: None,
        }
    }

    fn on_command(&mut self, command: &Command<'_>) -> Result<(), Refusal> {
        // The sweep closes the connection within a second.
        let now = Now::read();
        self.publisher.check_not_after(now.unix())?;
        match command.kind.0.as_ref() {
            "publish" => {
                match self.publish(command, now)? {
                    (channel, Appended::Done(accepted)) => {
                        self.deliveries.add(accepted.deliveries);
                        let mut json = String::with_capacity(128);
                        published(&mut json, command.id(), channel.as_str(), &accepted.position);
                        self.answers.push(json);
                    }
                    (channel, Appended::Pending(stored)) => {
                        let id = command.id().map(str::to_owned);
                        self.answers.push_pending(PendingAnswer::Publication { id, channel, stored });
                    }
                }
                Ok(())
            }
            "received" => {
                if let Some(outcome) = self.inbox()?.received(named_reply(command)?)? {
                    let id = command.id().map(str::to_owned);
                    self.answers.push_pending(PendingAnswer::Reply { id, is_answer: false, outcome });
                }
                Ok(())
            }
            "answer" => {
                let data = command.data.ok_or(Refusal::new(ErrorCode::Malformed, "`data` is missing"))?.get();
                match self.inbox()?.answer(named_reply(command)?, data)? {
                    None => self.answers.push(ServerFrame::Answered { id: command.id() }.to_json()),
                    Some(outcome) => {
                        let id = command.id().map(str::to_owned);
                        self.answers.push_pending(PendingAnswer::Reply { id, is_answer: true, outcome });
                    }
                }
                Ok(())
            }
            "watch" => self.watch(command),
            "unwatch" => self.unwatch(command),
            "ping" => {
                self.answers.push(ServerFrame::Pong { id: command.id() }.to_json());
                Ok(())
            }
            other => Err(Refusal::new(ErrorCode::Malformed, format!("unknown type `{}`", other.escape_debug()))),
        }
    }

    fn inbox(&self) -> Result<&ReplyInbox, Refusal> {
        self.inbox.as_ref().ok_or(ErrorCode::ReplyUnknown.into())
    }

    /// Subscribes this publisher to the presence of one of its channels, once the counts of other nodes are known.
    fn watch(&mut self, command: &Command<'_>) -> Result<(), Refusal> {
        let channel = self.channel_of(command)?;
        let id = command.id().map(str::to_owned);
        let remote_counts = presence::remote_counts(self.app.engine.node_bus(), channel.clone());
        self.answers.push_pending(PendingAnswer::Watch { id, channel, remote_counts });
        Ok(())
    }

    fn unwatch(&mut self, command: &Command<'_>) -> Result<(), Refusal> {
        let channel = self.channel_of(command)?;
        // Queued, because a `watch` may be pending.
        let id = command.id().map(str::to_owned);
        self.answers.push_pending(PendingAnswer::Unwatch { id, channel });
        Ok(())
    }

    fn start_watching(
        &mut self,
        id: Option<&str>,
        channel: ChannelName,
        remote_counts: Vec<(String, u64)>,
    ) -> Result<(), Refusal> {
        // The whitelist may have changed since the command.
        check_channel(&self.publisher, &channel)?;
        if self.watched.iter().any(|watched| watched.channel == channel) {
            return Err(ErrorCode::AlreadySubscribed.into());
        }
        if self.watched.len() >= self.app.max_subscriptions {
            return Err(Refusal::new(
                ErrorCode::LimitReached,
                "too many watched channels on this connection (max_subscriptions)",
            ));
        }
        let (mut frames, connection, name) = (self.answers.frames.split(), self.connection.clone(), channel.clone());
        // The answer is sent before the first event.
        let on_watching = move |connections| {
            let watching = ServerFrame::Watching { id, channel: name.as_str(), connections };
            frames.extend_from_slice(&text_frame(watching.to_json().as_bytes()));
            connection.send(&frames.freeze());
        };
        let now = Now::read().monotonic;
        let connection = self.connection.clone();
        self.watched.push(self.app.hub.watch_presence(channel, connection, remote_counts, now, on_watching));
        Ok(())
    }

    fn stop_watching(&mut self, id: Option<&str>, channel: &ChannelName) -> Result<(), Refusal> {
        let at = self.watched.iter().position(|watched| watched.channel == *channel);
        self.watched.swap_remove(at.ok_or(ErrorCode::NotSubscribed)?);
        self.answers.write(&ServerFrame::Unwatched { id, channel: channel.as_str() }.to_json());
        Ok(())
    }

    /// The channel that a command names, if this publisher may use it.
    fn channel_of(&mut self, command: &Command<'_>) -> Result<ChannelName, Refusal> {
        let name = command.channel.as_ref().ok_or(Refusal::new(ErrorCode::Malformed, "`channel` is missing"))?;
        if let Some(channel) = &self.channel
            && channel.as_str() == name.0
        {
            return Ok(channel.clone());
        }
        let channel =
            ChannelName::parse(&name.0).map_err(|error| Refusal::new(ErrorCode::ChannelInvalid, error.to_string()))?;
        check_channel(&self.publisher, &channel)?;
        Ok(self.channel.insert(channel).clone())
    }

    fn publish(&mut self, command: &Command<'_>, now: Now) -> Result<(ChannelName, Appended), Refusal> {
        let malformed = |detail: &'static str| Refusal::new(ErrorCode::Malformed, detail);
        let channel = self.channel_of(command)?;
        let data = command.data.ok_or(malformed("`data` is missing"))?.get();
        self.publisher.check_rate(now.monotonic)?;
        let appended = match command.encoding.as_ref().map(|encoding| encoding.0.as_ref()) {
            None => self.app.engine.append(&channel, self.publisher.name(), Payload::Json(data), now)?,
            Some("base64") => {
                use base64::Engine as _;
                let text: String = serde_json::from_str(data).map_err(|_| malformed("base64 data is a string"))?;
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .map_err(|_| malformed("the data is not base64"))?;
                self.app.engine.append(&channel, self.publisher.name(), Payload::Binary(&bytes), now)?
            }
            Some(_) => return Err(malformed("the only `encoding` is base64")),
        };
        Ok((channel, appended))
    }

    /// Sends the answers that are known by now. Ready unless too many are pending.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(due) = self.answers.poll_due(cx) {
            let (id, result) = match due {
                DueStep::Watch { id, channel, remote_counts } => {
                    let result = self.start_watching(id.as_deref(), channel, remote_counts);
                    (id, result)
                }
                DueStep::Unwatch { id, channel } => {
                    let result = self.stop_watching(id.as_deref(), &channel);
                    (id, result)
                }
                DueStep::Wait(backpressure) => {
                    self.backpressure = Some(Box::pin(backpressure.wait()));
                    continue;
                }
            };
            if let Err(refusal) = result {
                self.answers.write(&ServerFrame::error(id.as_deref(), &refusal).to_json());
            }
        }
        self.send_answers();
        if self.answers.is_full() { Poll::Pending } else { Poll::Ready(()) }
    }

    fn send_answers(&mut self) {
        if !self.answers.frames.is_empty() {
            self.connection.send(&self.answers.frames.split().freeze());
        }
    }
}

fn named_reply<'a>(command: &'a Command<'_>) -> Result<&'a str, Refusal> {
    let name = command.reply.as_ref().ok_or(Refusal::new(ErrorCode::Malformed, "`reply` is missing"))?;
    Ok(name.0.as_ref())
}

impl Handler for PublishStream {
    fn bounds(&self) -> Bounds {
        Bounds { message_bytes: self.app.limits.max_batch_bytes, fragments: self.app.limits.max_fragments }
    }

    /// Publishers are limited by their own rate, per publication. Control frames are limited for every connection.
    fn on_frame(&mut self) -> Result<(), CloseReason> {
        Ok(())
    }

    fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        match Command::parse(text) {
            Ok(command) => {
                if let Err(refusal) = self.on_command(&command) {
                    self.answers.push(ServerFrame::error(command.id(), &refusal).to_json());
                }
            }
            Err(Unreadable::Refused(refusal)) => self.answers.push(ServerFrame::error(None, &refusal).to_json()),
            Err(Unreadable::NotJson) => return Err(CloseReason::Malformed),
        }
        Ok(())
    }

    fn on_read_end(&mut self) {
        self.send_answers();
        let backpressure = std::mem::take(&mut self.deliveries).run();
        self.backpressure = backpressure.map(|backpressure| Box::pin(Backpressure::wait(backpressure)) as _);
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        std::task::ready!(self.poll_answers(cx));
        if let Some(backpressure) = &mut self.backpressure {
            std::task::ready!(backpressure.as_mut().poll(cx));
            self.backpressure = None;
        }
        Poll::Ready(())
    }

    fn on_end(&mut self) {
        // Unconfirmed replies may now go to another connection of the publisher.
        self.inbox = None;
        self.watched.clear();
    }

    fn on_wake(&mut self) -> Result<(), CloseReason> {
        if !self.policy_watch.is_due(&self.app.policy) {
            return Ok(());
        }
        // The whitelist may list the key with other rights, or not at all.
        self.channel = None;
        let whitelist = self.app.policy.whitelist();
        let now = Now::read().unix();
        self.publisher = whitelist.renew(&self.publisher, now).map_err(|_| CloseReason::Revoked)?;
        self.connection.expire_at(self.publisher.expires(), CloseReason::Revoked);
        self.watched.retain(|watched| check_channel(&self.publisher, &watched.channel).is_ok());
        Ok(())
    }
}
