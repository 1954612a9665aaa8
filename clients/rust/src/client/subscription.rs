//! One channel as its listener sees it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tokio::sync::mpsc;

use super::actor::Handle;
use crate::{Error, Gap, Position, Publication};

/// From where a channel is wanted, and how much may wait for its reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Begin with the newest so many.
    pub backlog: u64,
    /// Begin behind this position, also one of another process. It goes before `backlog`.
    pub since: Option<Position>,
    /// Publications that may wait for the reader. When there are so many the subscription pauses, and goes on from
    /// there once half of them are taken, with what the gateway's backlog still has; 1000 if not said.
    pub buffer: usize,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self { backlog: 0, since: None, buffer: 1000 }
    }
}

/// What a listener is told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The gateway listens for us: at first, and after each loss of the connection.
    Subscribed {
        /// Where the channel is now.
        position: Position,
        /// Nothing is missing since the place that was asked for. The first time without one, or without a backlog,
        /// it is `false`: there was nothing to go on from.
        recovered: bool,
    },
    /// The gateway's node is cut off from the others: what is published comes later. It ends with
    /// [`Event::Restored`] or [`Event::Subscribed`].
    Degraded,
    /// Everything came, and it goes on.
    Restored,
    /// Something is lost for good, here.
    Gap(Gap),
    /// One publication.
    Publication(Publication),
}

/// The publications of a channel, each once and in order. An error is the last thing. Dropping it ends it.
///
/// What is lost is told by [`Subscription::events`].
#[derive(Debug)]
pub struct Subscription(Events);

/// The same with notices between the publications, at their places.
#[derive(Debug)]
pub struct Events {
    channel: String,
    handle: Handle,
    events: mpsc::Receiver<Event>,
    shared: Arc<Shared>,
    position: Option<Position>,
}

/// What both sides of a subscription know.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// It waits until its reader took something.
    pub is_paused: AtomicBool,
    /// Why it is over.
    pub end: Mutex<Option<Error>>,
}

impl Subscription {
    pub(super) fn new(events: Events) -> Self {
        Self(events)
    }

    /// The channel.
    pub fn channel(&self) -> &str {
        &self.0.channel
    }

    /// The place of the last publication that was taken from here; [`SubscribeOptions::since`] goes on behind it.
    pub fn position(&self) -> Option<&Position> {
        self.0.position()
    }

    /// The next publication. `None` after [`crate::Client::close`].
    pub async fn next(&mut self) -> Option<Result<Publication, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Tells what is lost as well.
    pub fn events(self) -> Events {
        self.0
    }
}

impl Stream for Subscription {
    type Item = Result<Publication, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.0).poll_next(context)) {
                Some(Ok(Event::Publication(publication))) => Some(Ok(publication)),
                Some(Ok(_)) => continue,
                Some(Err(error)) => Some(Err(error)),
                None => None,
            });
        }
    }
}

impl Events {
    pub(super) fn new(channel: &str, handle: Handle, events: mpsc::Receiver<Event>, shared: Arc<Shared>) -> Self {
        Self { channel: channel.to_owned(), handle, events, shared, position: None }
    }

    /// The channel.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// The place of the last publication that was taken from here; [`SubscribeOptions::since`] goes on behind it.
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// The next event. `None` after [`crate::Client::close`].
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for Events {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(self.events.poll_recv(context));
        if self.shared.is_paused.load(Ordering::SeqCst) && self.events.len() <= self.events.max_capacity() / 2 {
            self.handle.wake();
        }
        Poll::Ready(match event {
            Some(event) => {
                if let Event::Publication(publication) = &event {
                    self.position = Some(publication.position.clone());
                }
                Some(Ok(event))
            }
            None => self.shared.end.lock().unwrap_or_else(PoisonError::into_inner).take().map(Err),
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.events.close();
        self.handle.wake();
    }
}
