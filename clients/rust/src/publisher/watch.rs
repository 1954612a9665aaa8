//! Who comes and goes on a channel.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tokio::sync::mpsc;

use super::link::{Command, Handle};
use super::replies::Principal;
use crate::Error;
use crate::frame::Frame;

/// Events that wait to be taken. What finds no room is counted in the next one's `missed`.
const BUFFER: usize = 256;

/// A stream of the events of one channel. It goes on over a new connection, beginning with `watching`. Dropping it ends
/// it.
#[derive(Debug)]
pub struct Watch {
    _handle: Handle,
    events: mpsc::Receiver<ChannelEvent>,
    end: Arc<Mutex<Option<Error>>>,
}

/// Something happened on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelEvent {
    /// `watching` at first and after each loss of the connection, then `subscribed`, `unsubscribed` and what else the
    /// protocol names; `ended` with the channel.
    pub event: String,
    /// Subscribers on the gateway's node after that.
    pub connections: u64,
    /// Names the connection that came or went.
    pub connection: Option<String>,
    /// Who came or went; `None` for a subscriber without a token.
    pub principal: Option<Principal>,
    /// Why, where there is a reason.
    pub reason: Option<String>,
    /// Events before this one that were left out, because they were not read fast enough.
    pub missed: u64,
}

impl Watch {
    pub(super) async fn open(handle: Handle, channel: &str) -> Result<Self, Error> {
        let (sender, events) = mpsc::channel(BUFFER);
        let end = Arc::new(Mutex::new(None));
        let watcher = Watcher { events: sender, end: end.clone(), missed: 0, is_asked: false };
        handle.command(Command::Watch(channel.to_owned(), watcher)).await?;
        Ok(Self { _handle: handle, events, end })
    }

    /// The next event; an error is the last thing.
    pub async fn next(&mut self) -> Option<Result<ChannelEvent, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for Watch {
    type Item = Result<ChannelEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.events.poll_recv(context)) {
            Some(event) => Some(Ok(event)),
            None => self.end.lock().unwrap_or_else(PoisonError::into_inner).take().map(Err),
        })
    }
}

/// The link's side of a [`Watch`].
pub(super) struct Watcher {
    events: mpsc::Sender<ChannelEvent>,
    end: Arc<Mutex<Option<Error>>>,
    missed: u64,
    /// The gateway was asked over this connection.
    pub is_asked: bool,
}

impl Watcher {
    pub(super) fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    pub(super) fn tell(&mut self, frame: &Frame) {
        let missed = self.missed.saturating_add(frame.missed.unwrap_or(0));
        let event = ChannelEvent {
            event: frame.event.clone().unwrap_or_else(|| frame.r#type.clone()),
            connections: frame.connections.unwrap_or(0),
            connection: frame.connection.clone(),
            principal: frame.principal(),
            reason: frame.reason.clone(),
            missed,
        };
        self.missed = match self.events.try_send(event) {
            Ok(()) => 0,
            Err(_) => missed.saturating_add(1),
        };
    }

    pub(super) fn end(self, error: Error) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}
