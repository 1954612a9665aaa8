//! Presence events of one channel.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tokio::sync::mpsc;

use super::link::{Command, Handle};
use super::watcher::{ChannelEvent, Watcher};
use crate::error::Error;

/// Events in the buffer. Those that do not fit are counted in `missed` of the next one.
const EVENT_BUFFER: usize = 256;

/// A stream of one channel's presence events. After a reconnect it continues with `watching`. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    _handle: Handle,
    events: mpsc::Receiver<ChannelEvent>,
    end: Arc<Mutex<Option<Error>>>,
}

impl Watch {
    pub(super) async fn open(handle: Handle, channel: &str) -> Result<Self, Error> {
        let (watcher, events, end) = Watcher::new(EVENT_BUFFER);
        handle.command(Command::Watch(channel.to_owned(), watcher)).await?;
        Ok(Self { _handle: handle, events, end })
    }

    /// Returns the next event. An error ends the stream.
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
