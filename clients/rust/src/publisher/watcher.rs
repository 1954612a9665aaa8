//! Presence events and the link's end of a watch.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::error::Error;
use crate::frame::Frame;
use crate::principal::Principal;

/// A presence event of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelEvent {
    /// `watching` at the start and after each reconnect; then `subscribed`, `unsubscribed` and others of the protocol;
    /// `ended` with the channel.
    pub event: String,
    /// Number of subscribers after the event.
    pub connections: u64,
    /// Id of the subscriber's connection.
    pub connection: Option<String>,
    /// The subscriber's identity; `None` without a token.
    pub principal: Option<Principal>,
    /// Reason of the event, if there is one.
    pub reason: Option<String>,
    /// Events lost before this one, because they were not read fast enough.
    pub missed: u64,
}

/// The link's end of a [`crate::Watch`].
pub(super) struct Watcher {
    events: mpsc::Sender<ChannelEvent>,
    end: Arc<Mutex<Option<Error>>>,
    missed: u64,
    /// Requested on this connection.
    pub is_requested: bool,
}

impl Watcher {
    /// Also returns the reader's ends: the events and the reason of their end.
    pub(super) fn new(buffer: usize) -> (Self, mpsc::Receiver<ChannelEvent>, Arc<Mutex<Option<Error>>>) {
        let (sender, events) = mpsc::channel(buffer);
        let end = Arc::new(Mutex::new(None));
        (Self { events: sender, end: end.clone(), missed: 0, is_requested: false }, events, end)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    pub(super) fn emit(&mut self, frame: &Frame) {
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
