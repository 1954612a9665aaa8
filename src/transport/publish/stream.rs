//! `GET /v1/publish`: one signed handshake, then publications as JSON frames, pipelined.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use futures_util::Stream;
use futures_util::future::BoxFuture;
use hyper::upgrade::OnUpgrade;

use super::{authenticate, check_channel};
use crate::auth::publisher::Publisher;
use tokio::sync::oneshot;

use crate::broker::channel::delivery::Deliveries;
use crate::broker::channel::fanout::Backpressure;
use crate::broker::channel::presence::PresenceSubscription;
use crate::broker::engine::{Appended, Stored};
use crate::broker::replies::{PendingOutcome, ReplyInbox};
use crate::broker::{Connection, Now};
use crate::cluster::presence;
use crate::protocol::frame::command::{Command, Unreadable};
use crate::protocol::frame::server_frame::{ServerFrame, published};
use crate::protocol::websocket::{Bounds, text_frame};
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Payload, Refusal};
use crate::transport::http::origin;
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;
use crate::transport::subscribe::websocket::SUBPROTOCOL;
use crate::transport::websocket::upgrade::Handshake;
use crate::transport::websocket::{Handler, RawSocket};

pub async fn upgrade(
    app: Arc<AppState>,
    call: RequestContext,
    upgrade: Option<OnUpgrade>,
    body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
) -> Result<warp::reply::Response, Refusal> {
    let mut handshake = Handshake::read(&call, upgrade)?;
    origin::check(&call)?;
    let publisher = authenticate(&app, &call, body, 0).await?.publisher;
    handshake.negotiate_compression(&call)?;
    let shared = app.clone();
    Ok(handshake.accept(&app, &call, Some(SUBPROTOCOL), move |connection| {
        connection.set_authenticated(None);
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

/// Answers that are not known yet; nothing more is read while there are so many.
const MAX_AWAITED: usize = 4096;

/// An answer in its place.
enum PendingAnswer {
    Publication {
        id: Option<String>,
        channel: ChannelName,
        answer: oneshot::Receiver<Result<Stored, Refusal>>,
    },
    /// What this publisher said about a reply that another node keeps.
    Settled {
        id: Option<String>,
        is_answer: bool,
        settling: PendingOutcome,
    },
    /// What other nodes know of a channel that is to be watched from then on.
    Watch {
        id: Option<String>,
        channel: ChannelName,
        elsewhere: BoxFuture<'static, Vec<(String, u64)>>,
    },
    Unwatch {
        id: Option<String>,
        channel: ChannelName,
    },
    Known(String),
}

struct PublishStream {
    app: Arc<AppState>,
    connection: Arc<Connection<RawSocket>>,
    publisher: Arc<Publisher>,
    generation: u64,
    /// The channel of the last publication: most publishers have few.
    channel: Option<ChannelName>,
    /// Takes replies while the connection is of use.
    recipient: Option<ReplyInbox>,
    /// The channels that it is told about.
    observations: Vec<PresenceSubscription>,
    /// Answers of one read, written together.
    answers: BytesMut,
    /// Answers that are not known yet, and those behind them.
    awaited: VecDeque<PendingAnswer>,
    /// What the publications of one read asked for.
    walks: Deliveries,
    /// Too much waits before subscribers: nothing more is read until it has moved on.
    relief: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl PublishStream {
    fn new(app: Arc<AppState>, connection: Arc<Connection<RawSocket>>, publisher: Arc<Publisher>) -> Self {
        let generation = app.policy.generation();
        let recipient = Some(app.replies.attach(publisher.name().clone(), connection.clone()));
        Self {
            app,
            connection,
            publisher,
            recipient,
            observations: Vec::new(),
            generation,
            channel: None,
            answers: BytesMut::new(),
            awaited: VecDeque::new(),
            walks: Deliveries::default(),
            relief: None,
        }
    }

    fn on_command(&mut self, command: &Command<'_>) -> Result<(), Refusal> {
        match command.kind.0.as_ref() {
            "publish" => {
                match self.publish(command)? {
                    (channel, Appended::Done(accepted)) => {
                        self.walks.add(accepted.deliveries);
                        let mut json = String::with_capacity(128);
                        published(&mut json, command.id(), channel.as_str(), &accepted.position);
                        self.answer(json);
                    }
                    (channel, Appended::Pending(answer)) => {
                        let id = command.id().map(str::to_owned);
                        self.awaited.push_back(PendingAnswer::Publication { id, channel, answer });
                    }
                }
                Ok(())
            }
            "received" => {
                if let Some(settling) = self.recipient()?.received(named_reply(command)?)? {
                    let id = command.id().map(str::to_owned);
                    self.awaited.push_back(PendingAnswer::Settled { id, is_answer: false, settling });
                }
                Ok(())
            }
            "answer" => {
                let data = command.data.ok_or(Refusal::new(ErrorCode::Malformed, "`data` is missing"))?.get();
                match self.recipient()?.answer(named_reply(command)?, data)? {
                    None => self.answer(ServerFrame::Answered { id: command.id() }.to_json()),
                    Some(settling) => {
                        let id = command.id().map(str::to_owned);
                        self.awaited.push_back(PendingAnswer::Settled { id, is_answer: true, settling });
                    }
                }
                Ok(())
            }
            "watch" => self.watch(command),
            "unwatch" => self.unwatch(command),
            "ping" => {
                self.answer(ServerFrame::Pong { id: command.id() }.to_json());
                Ok(())
            }
            other => Err(Refusal::new(ErrorCode::Malformed, format!("unknown type `{}`", other.escape_debug()))),
        }
    }

    fn recipient(&self) -> Result<&ReplyInbox, Refusal> {
        self.recipient.as_ref().ok_or(ErrorCode::ReplyUnknown.into())
    }

    /// Tells this publisher who listens to one of its channels.
    fn watch(&mut self, command: &Command<'_>) -> Result<(), Refusal> {
        let channel = self.channel_of(command)?;
        let id = command.id().map(str::to_owned);
        let elsewhere = presence::remote_counts(self.app.engine.node_bus(), channel.clone());
        self.awaited.push_back(PendingAnswer::Watch { id, channel, elsewhere });
        Ok(())
    }

    fn unwatch(&mut self, command: &Command<'_>) -> Result<(), Refusal> {
        let channel = self.channel_of(command)?;
        // Behind a `watch` that waits.
        self.awaited.push_back(PendingAnswer::Unwatch { id: command.id().map(str::to_owned), channel });
        Ok(())
    }

    fn observe(
        &mut self,
        id: Option<&str>,
        channel: ChannelName,
        elsewhere: Vec<(String, u64)>,
    ) -> Result<(), Refusal> {
        // The rules may have changed meanwhile.
        check_channel(&self.publisher, &channel)?;
        if self.observations.iter().any(|observation| observation.channel == channel) {
            return Err(ErrorCode::AlreadySubscribed.into());
        }
        if self.observations.len() >= self.app.max_subscriptions {
            return Err(Refusal::new(ErrorCode::LimitReached, "the connection watches as many channels as it may"));
        }
        let (mut frames, connection, name) = (self.answers.split(), self.connection.clone(), channel.clone());
        // The answer comes before the first event.
        let announce = move |connections| {
            let watching = ServerFrame::Watching { id, channel: name.as_str(), connections };
            frames.extend_from_slice(&text_frame(watching.to_json().as_bytes()));
            connection.send(&frames.freeze());
        };
        let now = Now::read().monotonic;
        self.observations.push(self.app.hub.watch_presence(channel, self.connection.clone(), elsewhere, now, announce));
        Ok(())
    }

    fn stop_observing(&mut self, id: Option<&str>, channel: &ChannelName) -> Result<(), Refusal> {
        let at = self.observations.iter().position(|observation| observation.channel == *channel);
        self.observations.swap_remove(at.ok_or(ErrorCode::NotSubscribed)?);
        let unwatched = ServerFrame::Unwatched { id, channel: channel.as_str() };
        self.answers.extend_from_slice(&text_frame(unwatched.to_json().as_bytes()));
        Ok(())
    }

    fn refuse(&mut self, id: Option<&str>, refusal: &Refusal) {
        self.answers.extend_from_slice(&text_frame(ServerFrame::error(id, refusal).to_json().as_bytes()));
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

    fn publish(&mut self, command: &Command<'_>) -> Result<(ChannelName, Appended), Refusal> {
        let malformed = |detail: &'static str| Refusal::new(ErrorCode::Malformed, detail);
        let channel = self.channel_of(command)?;
        let data = command.data.ok_or(malformed("`data` is missing"))?.get();
        let now = Now::read();
        self.publisher.check_not_after(now.unix())?;
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

    /// Answers stand in the order of what they answer.
    fn answer(&mut self, json: String) {
        match self.awaited.is_empty() {
            true => self.answers.extend_from_slice(&text_frame(json.as_bytes())),
            false => self.awaited.push_back(PendingAnswer::Known(json)),
        }
    }

    /// Writes the answers that are known by now. Ready when not too many are missing.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(first) = self.awaited.front_mut() {
            let json = match first {
                PendingAnswer::Known(json) => std::mem::take(json),
                PendingAnswer::Watch { id, channel, elsewhere } => {
                    let Poll::Ready(elsewhere) = elsewhere.as_mut().poll(cx) else { break };
                    let (id, channel) = (id.take(), channel.clone());
                    self.awaited.pop_front();
                    if let Err(refusal) = self.observe(id.as_deref(), channel, elsewhere) {
                        self.refuse(id.as_deref(), &refusal);
                    }
                    continue;
                }
                PendingAnswer::Unwatch { id, channel } => {
                    let (id, channel) = (id.take(), channel.clone());
                    self.awaited.pop_front();
                    if let Err(refusal) = self.stop_observing(id.as_deref(), &channel) {
                        self.refuse(id.as_deref(), &refusal);
                    }
                    continue;
                }
                PendingAnswer::Settled { id, is_answer, settling } => {
                    let Poll::Ready(settled) = Pin::new(settling).poll(cx) else { break };
                    match settled.unwrap_or_else(|_| Err(ErrorCode::EngineUnavailable.into())) {
                        Ok(()) if *is_answer => ServerFrame::Answered { id: id.as_deref() }.to_json(),
                        Ok(()) => {
                            self.awaited.pop_front();
                            continue;
                        }
                        Err(refusal) => ServerFrame::error(id.as_deref(), &refusal).to_json(),
                    }
                }
                PendingAnswer::Publication { id, channel, answer } => {
                    let Poll::Ready(settled) = Pin::new(answer).poll(cx) else { break };
                    match settled.unwrap_or_else(|_| Err(ErrorCode::EngineUnavailable.into())) {
                        Ok(Stored { position, backpressure: congestion }) => {
                            let mut json = String::with_capacity(128);
                            published(&mut json, id.as_deref(), channel.as_str(), &position);
                            self.relief = congestion.map(|congestion| Box::pin(congestion.wait()) as _);
                            json
                        }
                        Err(refusal) => ServerFrame::error(id.as_deref(), &refusal).to_json(),
                    }
                }
            };
            self.awaited.pop_front();
            self.answers.extend_from_slice(&text_frame(json.as_bytes()));
        }
        self.send_answers();
        if self.awaited.len() < MAX_AWAITED { Poll::Ready(()) } else { Poll::Pending }
    }

    fn send_answers(&mut self) {
        if !self.answers.is_empty() {
            self.connection.send(&self.answers.split().freeze());
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

    /// Publishers are limited by their own rate, per publication.
    fn on_frame(&mut self) -> Result<(), CloseReason> {
        Ok(())
    }

    fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        match Command::parse(text) {
            Ok(command) => {
                if let Err(refusal) = self.on_command(&command) {
                    self.answer(ServerFrame::error(command.id(), &refusal).to_json());
                }
            }
            Err(Unreadable::Refused(refusal)) => self.answer(ServerFrame::error(None, &refusal).to_json()),
            Err(Unreadable::NotJson) => return Err(CloseReason::Malformed),
        }
        Ok(())
    }

    fn on_read_end(&mut self) {
        self.send_answers();
        let congestion = std::mem::take(&mut self.walks).run();
        self.relief = congestion.map(|congestion| Box::pin(Backpressure::wait(congestion)) as _);
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        std::task::ready!(self.poll_pending(cx));
        if let Some(relief) = &mut self.relief {
            std::task::ready!(relief.as_mut().poll(cx));
            self.relief = None;
        }
        Poll::Ready(())
    }

    fn on_end(&mut self) {
        // What it had without saying so may go to another connection of the publisher.
        self.recipient = None;
        self.observations.clear();
    }

    fn on_wake(&mut self) -> Result<(), CloseReason> {
        let generation = self.app.policy.generation();
        if std::mem::replace(&mut self.generation, generation) == generation {
            return Ok(());
        }
        // The whitelist may know the key under new terms, or not at all any more.
        self.channel = None;
        let whitelist = self.app.policy.whitelist();
        let known = self.publisher.fingerprint().and_then(|fingerprint| whitelist.get(&fingerprint).cloned());
        self.publisher = known.ok_or(CloseReason::Revoked)?;
        self.observations.retain(|observation| check_channel(&self.publisher, &observation.channel).is_ok());
        Ok(())
    }
}
