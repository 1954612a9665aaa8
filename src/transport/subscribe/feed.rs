//! One subscriber of a fallback: what it is told, in order, with the cursor behind each word.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::query::Query;
use crate::broker::channel::session::subscribed;
use crate::broker::connection::registry::{Fallback, Registered};
use crate::broker::engine::{Joined, Start, subscriber_slot};
use crate::broker::{BufferedSocket, Connection, ConnectionLimits, Now, Phase, Session};
use crate::protocol::publication::Head;
use crate::protocol::websocket::{text_frame, written_texts};
use crate::protocol::{ChannelName, CloseReason, Cursor, Form, InvalidCursor, Owner, Position, Refusal};
use crate::transport::credential;
use crate::transport::http::origin;
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;

pub struct EventFeed {
    app: Arc<AppState>,
    connection: Arc<Connection<BufferedSocket>>,
    session: Session,
    /// Behind what was handed out so far.
    cursor: Cursor,
    /// Texts that were taken from the outbox, or come before everything in it.
    ready: VecDeque<Bytes>,
    /// Nothing is missing since the cursor, or whatever else it went on from.
    recovered: bool,
    /// The policy that the session was checked against.
    checked: u64,
    _registered: Registered,
}

/// One thing to tell.
pub enum Event {
    /// A JSON text, the same as on a WebSocket.
    Text(EventKind, Bytes),
    Heartbeat,
    /// The last word.
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
    /// Subscribes to all that is asked for, or to nothing.
    pub async fn open(
        app: Arc<AppState>,
        call: &RequestContext,
        asked: &Query,
        fallback: Fallback,
    ) -> Result<Self, Refusal> {
        origin::check(call)?;
        let checked = app.policy.generation();
        let principal = credential::principal(&app, call).await?;
        let owner = principal.as_ref().map_or(Owner::ANONYMOUS, |who| Owner::of(&who.issuer, &who.subject));
        if let Some(cursor) = &asked.cursor {
            let channels: Vec<_> = asked.channels.iter().map(|(channel, _)| channel.clone()).collect();
            cursor.check(owner, &channels)?;
        }
        let limits = Arc::new(limits(&app, fallback));
        let connection = Arc::new(Connection::new(app.registry.new_id(), limits, BufferedSocket));
        let registered = app.registry.register_fallback(connection.clone(), fallback);
        let mut feed = Self {
            session: Session::new(connection.clone(), app.channels(), principal),
            connection,
            cursor: Cursor::new(owner),
            ready: VecDeque::new(),
            recovered: asked.goes_on(),
            checked,
            app,
            _registered: registered,
        };
        // Nothing is begun for a request that is refused in the end.
        asked.channels.iter().try_for_each(|(channel, _)| feed.session.may_listen(channel))?;
        for (channel, start) in &asked.channels {
            let known = asked.cursor.as_ref().and_then(|cursor| cursor.position(channel.as_str()));
            let start = known.cloned().map(Start::Since).or_else(|| start.clone()).unwrap_or(Start::Live);
            feed.listen(channel, start, known.is_some()).await?;
        }
        Ok(feed)
    }

    async fn listen(&mut self, channel: &ChannelName, start: Start, is_from_cursor: bool) -> Result<(), Refusal> {
        let _place = subscriber_slot(&*self.app.engine, channel).await?;
        let since = if let Start::Since(since) = &start { Some(since.clone()) } else { None };
        let Self { session, cursor, ready, recovered, .. } = self;
        let mut is_future = false;
        let mut announce = |joined: Joined<'_>| {
            let position = &joined.position;
            let is_ahead = |since: &Position| position.epoch == since.epoch && position.offset < since.offset;
            is_future = is_from_cursor && since.as_ref().is_some_and(is_ahead);
            *recovered &= since.is_none() || joined.recovered;
            let before = joined.history.first().map_or(position.offset, |first| first.offset - 1);
            cursor.set(channel.as_str(), &position.epoch, before);
            ready.extend(written_texts(text_frame(subscribed(None, channel.as_str(), &joined).to_json().as_bytes())));
            // Not through the outbox: however much it is, it is kept already, and goes out as fast as it is read.
            ready.extend(joined.history.iter().flat_map(|one| written_texts(one.frame(Form::Native).clone())));
        };
        session.listen(channel, start, Now::read(), &mut announce)?;
        if is_future { Err(InvalidCursor::Future.into()) } else { Ok(()) }
    }

    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// The client went away.
    pub fn abandon(&self) {
        self.connection.abandon();
    }

    /// The next word; `None` when there are no more.
    pub fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Event>> {
        self.connection.set_task(cx.waker());
        self.recheck();
        loop {
            if let Some(text) = self.ready.pop_front() {
                self.connection.mark_progress();
                match self.read(text) {
                    Some(word) => return Poll::Ready(Some(word)),
                    None => continue,
                }
            }
            // Before the outbox: what was sent before the end is told before it.
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

    /// Looks at the rights again if the policy changed.
    fn recheck(&mut self) {
        let generation = self.app.policy.generation();
        if std::mem::replace(&mut self.checked, generation) == generation {
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

    /// Keeps the cursor behind what is handed out.
    fn read(&mut self, text: Bytes) -> Option<Event> {
        if text.is_empty() {
            // The peer has no way to answer. That it takes this is the sign of its life.
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

/// The limits of every connection, with a heartbeat in place of pings that want an answer.
fn limits(app: &AppState, fallback: Fallback) -> ConnectionLimits {
    const HEARTBEAT: Duration = Duration::from_secs(15);
    let ping = if fallback == Fallback::Poll { Duration::MAX } else { HEARTBEAT.min(app.connection_limits.ping) };
    ConnectionLimits { ping, pong: Duration::MAX, ..*app.connection_limits }
}
