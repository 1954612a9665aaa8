//! A subscriber's session: the principal of a connection, and its subscriptions.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::subscriptions::Subscriptions;
use crate::broker::engine::{Engine, Joined, Now, Start};
use crate::broker::replies::{NewReply, Replies};
use crate::broker::{ChannelRules, Connection, Holder, JoinRequest, Principal};
use crate::protocol::frame::command::Command;
use crate::protocol::frame::server_frame::ServerFrame;
use crate::protocol::publication::Position;
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Form, Refusal};

/// The parts that all sessions share.
#[derive(Clone)]
pub struct SessionContext {
    pub engine: Arc<dyn Engine>,
    pub rules: Arc<ArcSwap<ChannelRules>>,
    pub replies: Replies,
    /// Maximum of channels of one connection.
    pub max_subscriptions: usize,
}

pub struct Session {
    connection: Arc<Connection>,
    context: SessionContext,
    principal: Option<Arc<Principal>>,
    /// The client's address.
    address: Holder,
    form: Form,
    subscriptions: Subscriptions,
}

impl Session {
    /// `principal` is `None` for a client without a token, which may subscribe to channels for anyone.
    pub fn new(
        connection: Arc<Connection>,
        context: SessionContext,
        principal: Option<Arc<Principal>>,
        address: Holder,
    ) -> Self {
        connection.set_authenticated(principal.as_ref().map(|principal| principal.expires));
        if let Some(principal) = &principal {
            connection.set_subject(principal.subject.clone());
        }
        let subscriptions = Subscriptions::default();
        Self { connection, context, principal, address, form: Form::Native, subscriptions }
    }

    /// Sets another form of publications for this connection.
    pub fn with_form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// `None` without a token.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    /// The person, or the address of a client without a token.
    pub fn holder(&self) -> Holder {
        self.principal.as_deref().map_or(self.address, Holder::of_person)
    }

    /// Handles a command and sends the response. Commands that wait have their own methods: [`Session::subscribe`],
    /// [`Session::refresh`].
    pub fn on_command(&mut self, command: &Command<'_>) -> Result<(), Refusal> {
        match command.kind.0.as_ref() {
            "unsubscribe" => self.unsubscribe(command),
            "ping" => {
                self.reply(&ServerFrame::Pong { id: command.id() });
                Ok(())
            }
            "hello" => Err(Refusal::new(
                ErrorCode::Malformed,
                "`hello` must be the first message, and sent once; use `refresh` for a new token",
            )),
            "reply" => self.send_reply(command),
            other => Err(Refusal::new(ErrorCode::Malformed, format!("unknown type `{}`", other.escape_debug()))),
        }
    }

    /// Replaces the token with a newer one of the same subject.
    pub fn refresh(&mut self, id: Option<&str>, principal: Arc<Principal>) -> Result<(), Refusal> {
        let is_same_subject = self
            .principal
            .as_ref()
            .is_none_or(|before| (&before.issuer, &before.subject) == (&principal.issuer, &principal.subject));
        if !is_same_subject {
            return Err(Refusal::new(ErrorCode::Forbidden, "the token has another subject; open a new connection"));
        }
        self.connection.set_authenticated(Some(principal.expires));
        self.connection.set_subject(principal.subject.clone());
        self.reply(&ServerFrame::Refreshed { id, expires: rfc3339(principal.expires) });
        self.principal = Some(principal);
        self.recheck();
        Ok(())
    }

    /// Ends the subscriptions that the rules no longer allow.
    pub fn recheck(&mut self) {
        let rules = self.context.rules.load();
        let principal = self.principal.as_deref();
        for membership in self.subscriptions.remove_forbidden(|channel| rules.may_subscribe(channel, principal)) {
            let channel = membership.channel().clone();
            drop(membership);
            self.reply(&ServerFrame::ended(channel.as_str(), CloseReason::Forbidden));
        }
    }

    pub fn refuse(&self, id: Option<&str>, refusal: &Refusal) {
        self.reply(&ServerFrame::error(id, refusal));
    }

    /// The channel of a `subscribe` command, if this session may subscribe to it.
    pub fn may_subscribe(&self, command: &Command<'_>) -> Result<ChannelName, Refusal> {
        let channel = channel_of(command)?;
        self.may_listen(&channel)?;
        Ok(channel)
    }

    /// Refuses a channel that this session may not subscribe to.
    pub fn may_listen(&self, channel: &ChannelName) -> Result<(), Refusal> {
        let principal = self.principal.as_deref();
        if self.context.rules.load().may_subscribe(channel, principal) {
            return Ok(());
        }
        Err(match principal {
            None => Refusal::new(ErrorCode::Unauthenticated, "the channel requires a token"),
            Some(_) => Refusal::new(ErrorCode::Forbidden, "token does not grant this channel"),
        })
    }

    /// Whether it has no active subscription.
    pub fn is_idle(&self) -> bool {
        !self.subscriptions.any(|_| true)
    }

    /// Subscribes to a channel and sends the response. [`subscriber_slot`](crate::broker::engine::subscriber_slot) has to
    /// complete before.
    pub fn subscribe(&mut self, command: &Command<'_>, now: Now) -> Result<(), Refusal> {
        let channel = channel_of(command)?;
        let start = match (&command.since, command.backlog) {
            (Some(since), _) => Start::Since(Position { epoch: since.epoch.0.as_ref().into(), offset: since.offset }),
            (None, Some(count)) => Start::Backlog(count),
            (None, None) => Start::Live,
        };
        let connection = self.connection.clone();
        let mut on_joined = |joined: Joined<'_>| {
            connection.send_text(&subscribed(command.id(), channel.as_str(), &joined).to_json());
            for publication in joined.history {
                connection.send(publication.frame(Form::Native));
            }
        };
        self.listen(&channel, start, now, &mut on_joined)
    }

    /// The same without a response: `on_joined` is called before the first publication.
    pub fn listen(
        &mut self,
        channel: &ChannelName,
        start: Start,
        now: Now,
        on_joined: &mut dyn FnMut(Joined<'_>),
    ) -> Result<(), Refusal> {
        // Checked again: the rules may have changed while the caller waited for the engine.
        self.may_listen(channel)?;
        let tag = self.subscriptions.prepare(channel, self.context.max_subscriptions)?;
        let request = JoinRequest {
            connection: self.connection.clone(),
            principal: self.principal.clone(),
            holder: self.holder(),
            form: self.form,
            tag,
        };
        let membership = self.context.engine.subscribe(channel, request, start, now, on_joined)?;
        self.subscriptions.insert(membership);
        Ok(())
    }

    fn unsubscribe(&mut self, command: &Command<'_>) -> Result<(), Refusal> {
        let channel = channel_of(command)?;
        drop(self.subscriptions.remove(&channel).ok_or(ErrorCode::NotSubscribed)?);
        self.reply(&ServerFrame::Unsubscribed {
            id: command.id(),
            channel: channel.as_str(),
            reason: None,
            code: None,
        });
        Ok(())
    }

    /// Forwards a reply to the publisher of the message.
    fn send_reply(&self, command: &Command<'_>) -> Result<(), Refusal> {
        let malformed = |detail: &'static str| Refusal::new(ErrorCode::Malformed, detail);
        let channel = channel_of(command)?;
        let to = command.to.as_ref().ok_or(malformed("`to` is missing"))?;
        let data = command.data.ok_or(malformed("`data` is missing"))?.get();
        let membership = self.subscriptions.get(&channel).ok_or(ErrorCode::NotSubscribed)?;
        if !self.context.rules.load().of(&channel).replies {
            return Err(Refusal::new(ErrorCode::Forbidden, "replies are not enabled for the channel"));
        }
        let to = Position::of_message(&to.0).ok_or(ErrorCode::MessageUnknown)?;
        let publisher = self.context.engine.publisher_of(&channel, &to).ok_or(ErrorCode::MessageUnknown)?;
        let reply = NewReply {
            from: &self.connection,
            membership,
            principal: self.principal.as_deref(),
            id: command.id(),
            channel: &channel,
            to: &to,
            data,
            wants_answer: command.answer.unwrap_or(false),
        };
        self.context.replies.send(&publisher, reply, Now::read())
    }

    fn reply(&self, reply: &ServerFrame<'_>) {
        self.connection.send_text(&reply.to_json());
    }
}

/// The first frame of a subscription.
pub fn subscribed<'a>(id: Option<&'a str>, channel: &'a str, joined: &'a Joined<'_>) -> ServerFrame<'a> {
    let Position { epoch, offset } = &joined.position;
    ServerFrame::Subscribed { id, channel, epoch, offset: *offset, recovered: joined.recovered }
}

fn channel_of(command: &Command<'_>) -> Result<ChannelName, Refusal> {
    let Some(channel) = &command.channel else {
        return Err(Refusal::new(ErrorCode::Malformed, "`channel` is missing"));
    };
    ChannelName::parse(&channel.0).map_err(|error| Refusal::new(ErrorCode::ChannelInvalid, error.to_string()))
}

/// Formats seconds since 1970 as RFC 3339.
pub fn rfc3339(unix: u64) -> String {
    let second = i64::try_from(unix).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
    second.unwrap_or(jiff::Timestamp::MAX).to_string()
}
