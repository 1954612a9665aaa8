//! The client's state of one subscription and its queue of events.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::event::{Event, ReaderState, SubscribeOptions};
use super::track::Track;
use crate::error::Error;
use crate::frame::Frame;

/// One frame causes at most a gap and the event after it.
const MAX_EVENTS_PER_FRAME: usize = 2;

pub(super) struct Channel {
    pub name: String,
    track: Track,
    events: mpsc::Sender<Event>,
    shared: Arc<ReaderState>,
    pub status: Status,
}

#[derive(PartialEq, Eq)]
pub(super) enum Status {
    /// Not requested on this connection yet; not before the given time.
    ToRequest(Option<Instant>),
    /// The `subscribe` command with this id has no response yet.
    Requested(u64),
    Active,
    /// The reader's queue is full.
    Paused,
}

impl Channel {
    /// Also returns the reader's end.
    pub(super) fn new(name: &str, options: SubscribeOptions) -> (Self, mpsc::Receiver<Event>, Arc<ReaderState>) {
        let (events, receiver) = mpsc::channel(options.buffer.clamp(2 * MAX_EVENTS_PER_FRAME, 1 << 20));
        let (track, shared) = (Track::new(options.since, options.backlog), Arc::<ReaderState>::default());
        let status = Status::ToRequest(None);
        (Self { name: name.to_owned(), track, events, shared: shared.clone(), status }, receiver, shared)
    }

    /// The reader dropped its end.
    pub(super) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    pub(super) fn subscribe(&mut self, id: u64) -> String {
        self.status = Status::Requested(id);
        let channel = serde_json::Value::from(self.name.as_str());
        format!(r#"{{"type":"subscribe","id":"{id}","channel":{channel}{}}}"#, self.track.resume_params())
    }

    pub(super) fn unsubscribe(&self, id: u64) -> String {
        format!(r#"{{"type":"unsubscribe","id":"{id}","channel":{}}}"#, serde_json::Value::from(self.name.as_str()))
    }

    /// The subscription must be requested again on the next connection.
    pub(super) fn on_disconnect(&mut self) {
        if self.status != Status::Paused {
            self.status = Status::ToRequest(None);
        }
    }

    /// Returns `true` if the queue is full: the caller pauses the channel at the gateway.
    pub(super) fn on_subscribed(&mut self, frame: &Frame, id: Option<u64>) -> bool {
        // A frame without an id is a change that the gateway made.
        let is_ours = match (&self.status, id) {
            (Status::Requested(requested), Some(id)) => *requested == id,
            (Status::Active, None) => true,
            _ => false,
        };
        let Some(position) = frame.position().filter(|_| is_ours) else { return false };
        if !self.has_capacity() {
            return true;
        }
        self.status = Status::Active;
        let (recovered, gap) = self.track.on_subscribed(&position, frame.recovered == Some(true));
        if let Some(gap) = gap {
            self.emit(Event::Gap(gap));
        }
        self.emit(Event::Subscribed { position, recovered });
        false
    }

    /// Returns `true` if the queue is full: the caller pauses the channel at the gateway.
    pub(super) fn on_message(&mut self, frame: Frame) -> bool {
        if self.status != Status::Active {
            return false;
        }
        if !self.has_capacity() {
            return true;
        }
        let Some(publication) = frame.into_publication() else { return false };
        if let Some(gap) = self.track.on_publication(&publication.position) {
            if let Some(gap) = gap {
                self.emit(Event::Gap(gap));
            }
            self.emit(Event::Publication(publication));
        }
        false
    }

    /// Returns `true` if the queue is full: the caller pauses the channel at the gateway.
    pub(super) fn on_state(&mut self, event: Event) -> bool {
        if self.status != Status::Active {
            return false;
        }
        if !self.has_capacity() {
            return true;
        }
        self.emit(event);
        false
    }

    pub(super) fn pause(&mut self) {
        self.status = Status::Paused;
        self.shared.is_paused.store(true, Ordering::SeqCst);
    }

    /// Requests the subscription again once half of the queue is free.
    pub(super) fn resume_if_drained(&mut self) {
        if self.status == Status::Paused && self.events.capacity() >= self.events.max_capacity() / 2 {
            self.shared.is_paused.store(false, Ordering::SeqCst);
            self.status = Status::ToRequest(None);
        }
    }

    /// Ends the subscription. The reader still gets the queued events.
    pub(super) fn end(self, error: Option<Error>) {
        *self.shared.end.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn has_capacity(&self) -> bool {
        self.events.capacity() >= MAX_EVENTS_PER_FRAME
    }

    fn emit(&self, event: Event) {
        // The caller checked the capacity, so this fails only without a reader.
        let _ = self.events.try_send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degraded_is_reported_or_pauses_channel() {
        let (mut channel, mut events, shared) = Channel::new("c", SubscribeOptions { buffer: 4, ..Default::default() });
        assert!(!channel.on_state(Event::Degraded), "not of this connection");
        channel.status = Status::Active;
        assert!(!channel.on_state(Event::Degraded) && !channel.on_state(Event::Restored));
        assert!(matches!(events.try_recv(), Ok(Event::Degraded)));
        assert!(matches!(events.try_recv(), Ok(Event::Restored)));
        while !channel.on_state(Event::Degraded) {}
        channel.pause();
        assert!(shared.is_paused.load(Ordering::SeqCst), "the state follows after the pause");
    }
}
