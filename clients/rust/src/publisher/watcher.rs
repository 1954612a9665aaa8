//! Events of a watched channel, and where the link delivers them.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::error::Error;
use crate::frame::Frame;
use crate::principal::Principal;

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

/// The link's side of a [`super::Watch`].
pub(super) struct Watcher {
    events: mpsc::Sender<ChannelEvent>,
    end: Arc<Mutex<Option<Error>>>,
    missed: u64,
    /// The gateway was asked over this connection.
    pub is_requested: bool,
}

impl Watcher {
    /// With the reader's ends: the events, and why they are over.
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
