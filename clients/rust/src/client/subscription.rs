//! The reader's end of a subscription.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tokio::sync::mpsc;

use super::event::{Event, ReaderState};
use super::handle::Handle;
use crate::error::Error;
use crate::publication::{Position, Publication};

/// Stream of a channel's publications, each once and in order. An error ends it. Dropping it unsubscribes.
///
/// [`Subscription::events`] also reports lost publications.
#[derive(Debug)]
pub struct Subscription(Events);

/// Stream of publications and other events in order.
#[derive(Debug)]
pub struct Events {
    channel: String,
    handle: Handle,
    events: mpsc::Receiver<Event>,
    reader_state: Arc<ReaderState>,
    position: Option<Position>,
}

impl Subscription {
    pub(super) fn new(events: Events) -> Self {
        Self(events)
    }

    /// The channel.
    pub fn channel(&self) -> &str {
        &self.0.channel
    }

    /// Position of the last publication taken from this stream, for [`crate::SubscribeOptions::since`].
    pub fn position(&self) -> Option<&Position> {
        self.0.position()
    }

    /// Returns the next publication; `None` after [`crate::Client::close`].
    pub async fn next(&mut self) -> Option<Result<Publication, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Converts it into a stream that also reports gaps.
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
    pub(super) fn new(
        channel: &str,
        handle: Handle,
        events: mpsc::Receiver<Event>,
        reader_state: Arc<ReaderState>,
    ) -> Self {
        Self { channel: channel.to_owned(), handle, events, reader_state, position: None }
    }

    /// The channel.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Position of the last publication taken from this stream, for [`crate::SubscribeOptions::since`].
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// Returns the next event; `None` after [`crate::Client::close`].
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for Events {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(self.events.poll_recv(context));
        if self.reader_state.is_paused.load(Ordering::SeqCst) && self.events.len() <= self.events.max_capacity() / 2 {
            self.handle.wake();
        }
        Poll::Ready(match event {
            Some(event) => {
                if let Event::Publication(publication) = &event {
                    self.position = Some(publication.position.clone());
                }
                Some(Ok(event))
            }
            None => self.reader_state.end.lock().unwrap_or_else(PoisonError::into_inner).take().map(Err),
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.events.close();
        self.handle.wake();
    }
}
