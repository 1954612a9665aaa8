//! One fallback subscriber: its events in order, with the cursor behind each.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::query::Query;
use crate::auth::is_trusted;
use crate::broker::channel::session::subscribed;
use crate::broker::connection::registry::{Fallback, Registered};
use crate::broker::engine::{Joined, Start, subscriber_slot};
use crate::broker::{BufferedSocket, Connection, ConnectionLimits, Now, Phase, Session};
use crate::protocol::publication::Head;
use crate::protocol::websocket::{text_frame, written_texts};
use crate::protocol::{ChannelName, CloseReason, Cursor, ErrorCode, Form, InvalidCursor, Owner, Position, Refusal};
use crate::transport::accept::stream_limits::HeldStream;
use crate::transport::credential;
use crate::transport::credential::policy_watch::PolicyWatch;
use crate::transport::http::origin;
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;

pub struct EventFeed {
    app: Arc<AppState>,
    connection: Arc<Connection<BufferedSocket>>,
    session: Session,
    /// The position behind the last returned event.
    cursor: Cursor,
    /// Texts that were taken from the outbox, or precede everything in it.
    ready: VecDeque<Bytes>,
    /// No publication is missing since the cursor or `since`.
    recovered: bool,
    policy_watch: PolicyWatch,
    _registered: Registered,
    /// Over HTTP/2.
    _stream: Option<HeldStream>,
}

/// One event for the client.
pub enum Event {
    /// A JSON text, the same as on a WebSocket.
    Text(EventKind, Bytes),
    Heartbeat,
    /// The last event.
    Close(CloseReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Message,
    Subscribed,
    Unsubscribed,
    Degraded,
    Restored,
}

impl EventFeed {
    /// Subscribes to all channels of the query, or to none.
    pub async fn open(
        app: Arc<AppState>,
        call: &RequestContext,
        query: &Query,
        fallback: Fallback,
    ) -> Result<Self, Refusal> {
        origin::check(&app, call)?;
        let policy_watch = PolicyWatch::current(&app.policy);
        let principal = credential::principal(&app, call).await?;
        let owner = principal.as_ref().map_or(Owner::ANONYMOUS, |who| Owner::of(&who.issuer, &who.subject));
        if let Some(cursor) = &query.cursor {
            let channels: Vec<_> = query.channels.iter().map(|(channel, _)| channel.clone()).collect();
            cursor.check(owner, &channels)?;
        }
        let stream = admit_stream(&app, call)?;
        let limits = Arc::new(limits(&app, fallback));
        let connection = Arc::new(Connection::new(app.registry.new_id(), limits, BufferedSocket));
        let registered = app.registry.register_fallback(connection.clone(), fallback);
        let mut feed = Self {
            session: Session::new(connection.clone(), app.channels(), principal, call.holder()),
            connection,
            cursor: Cursor::new(owner),
            ready: VecDeque::new(),
            recovered: query.is_resuming(),
            policy_watch,
            app,
            _registered: registered,
            _stream: stream,
        };
        // All channels are checked first, so that a refused request subscribes to none.
        query.channels.iter().try_for_each(|(channel, _)| feed.session.may_listen(channel))?;
        for (channel, start) in &query.channels {
            let known = query.cursor.as_ref().and_then(|cursor| cursor.position(channel.as_str()));
            let start = known.cloned().map(Start::Since).or_else(|| start.clone()).unwrap_or(Start::Live);
            feed.listen(channel, start, known.is_some()).await?;
        }
        Ok(feed)
    }

    async fn listen(&mut self, channel: &ChannelName, start: Start, is_from_cursor: bool) -> Result<(), Refusal> {
        let _slot = subscriber_slot(&*self.app.engine, channel, self.session.holder()).await?;
        let since = if let Start::Since(since) = &start { Some(since.clone()) } else { None };
        let Self { session, cursor, ready, recovered, .. } = self;
        let mut is_future = false;
        let mut on_joined = |joined: Joined<'_>| {
            let position = &joined.position;
            let is_ahead = |since: &Position| position.epoch == since.epoch && position.offset < since.offset;
            is_future = is_from_cursor && since.as_ref().is_some_and(is_ahead);
            *recovered &= since.is_none() || joined.recovered;
            let before = joined.history.first().map_or(position.offset, |first| first.offset - 1);
            cursor.set(channel.as_str(), &position.epoch, before);
            ready.extend(written_texts(text_frame(subscribed(None, channel.as_str(), &joined).to_json().as_bytes())));
            // Not through the outbox: the history is in memory already, and is sent as fast as the client reads.
            ready.extend(joined.history.iter().flat_map(|one| written_texts(one.frame(Form::Native).clone())));
        };
        session.listen(channel, start, Now::read(), &mut on_joined)?;
        if is_future { Err(InvalidCursor::Future.into()) } else { Ok(()) }
    }

    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// The client has disconnected.
    pub fn abandon(&self) {
        self.connection.abandon();
    }

    /// The next event; `None` at the end.
    pub fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Event>> {
        self.connection.set_task(cx.waker());
        self.recheck();
        loop {
            if let Some(text) = self.ready.pop_front() {
                if matches!(self.connection.mark_progress(), Phase::Closed(_)) {
                    // The time for the rest of the backlog is over, for example long after the end of the token.
                    return Poll::Ready(None);
                }
                match self.event(text) {
                    Some(event) => return Poll::Ready(Some(event)),
                    None => continue,
                }
            }
            // Read before the outbox, so that frames sent before the close are returned before it.
            let phase = self.connection.phase();
            match (self.connection.pop_frames(), phase) {
                (Some(frames), _) => self.ready.extend(written_texts(frames)),
                (None, Phase::Open) => {
                    self.ready = VecDeque::new();
                    return Poll::Pending;
                }
                (None, Phase::Closing(reason)) => {
                    self.connection.abandon();
                    return Poll::Ready(Some(Event::Close(reason)));
                }
                (None, Phase::Closed(_)) => return Poll::Ready(None),
            }
        }
    }

    /// Checks the authorization again if the policy has changed.
    fn recheck(&mut self) {
        if !self.policy_watch.is_due(&self.app.policy) {
            return;
        }
        if let Some(principal) = self.session.principal()
            && let Err(reason) = self.app.policy.check(principal)
        {
            return self.connection.close(reason);
        }
        self.session.recheck();
        if self.session.is_idle() {
            self.connection.close(CloseReason::Forbidden);
        }
    }

    /// Parses a text, and moves the cursor behind it.
    fn event(&mut self, text: Bytes) -> Option<Event> {
        if text.is_empty() {
            // The peer cannot answer a ping. That it reads the heartbeat shows that it is alive.
            self.connection.mark_alive();
            return Some(Event::Heartbeat);
        }
        let cursor = &mut self.cursor;
        let kind = Head::read(&text, |head| match &*head.kind.0 {
            "message" => {
                if let (Some(channel), Some(epoch), Some(offset)) = (head.channel, head.epoch, head.offset) {
                    cursor.set(&channel.0, &epoch.0, offset);
                }
                Some(EventKind::Message)
            }
            "subscribed" => Some(EventKind::Subscribed),
            "unsubscribed" => Some(EventKind::Unsubscribed),
            "degraded" => Some(EventKind::Degraded),
            "restored" => Some(EventKind::Restored),
            _ => None,
        });
        kind.flatten().map(|kind| Event::Text(kind, text))
    }
}

/// Counts a stream of HTTP/2 as a connection. Any number of them would share one socket's count.
fn admit_stream(app: &AppState, call: &RequestContext) -> Result<Option<HeldStream>, Refusal> {
    let Some(streams) = &call.peer().streams else { return Ok(None) };
    let client = call.client().filter(|client| !is_trusted(client.ip(), &app.limits.trusted_proxies));
    streams.admit_held(client).map(Some).map_err(|_| ErrorCode::ConnectionLimit.into())
}

/// The limits of every connection, with a heartbeat instead of pings.
fn limits(app: &AppState, fallback: Fallback) -> ConnectionLimits {
    const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
    let ping =
        if fallback == Fallback::Poll { Duration::MAX } else { HEARTBEAT_INTERVAL.min(app.connection_limits.ping) };
    ConnectionLimits { ping, pong: Duration::MAX, ..*app.connection_limits }
}
