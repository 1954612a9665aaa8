//! The client's side of one subscription: what it is at, and what it tells its reader.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::event::{Event, Shared, SubscribeOptions};
use super::track::Track;
use crate::error::Error;
use crate::frame::Frame;

/// A gap, and what comes behind it.
const ROOM: usize = 2;

pub(super) struct Channel {
    pub name: String,
    track: Track,
    events: mpsc::Sender<Event>,
    shared: Arc<Shared>,
    pub status: Status,
}

#[derive(PartialEq, Eq)]
pub(super) enum Status {
    /// To be asked for over this connection, at once or not before then.
    Wanted(Option<Instant>),
    /// The `subscribe` with this id is not answered yet.
    Asked(u64),
    Active,
    /// Its reader has enough for now.
    Paused,
}

impl Channel {
    /// The reader's end comes with it.
    pub(super) fn new(name: &str, options: SubscribeOptions) -> (Self, mpsc::Receiver<Event>, Arc<Shared>) {
        let (events, receiver) = mpsc::channel(options.buffer.clamp(2 * ROOM, 1 << 20));
        let (track, shared) = (Track::new(options.since, options.backlog), Arc::<Shared>::default());
        let status = Status::Wanted(None);
        (Self { name: name.to_owned(), track, events, shared: shared.clone(), status }, receiver, shared)
    }

    /// Nobody reads it any more.
    pub(super) fn is_left(&self) -> bool {
        self.events.is_closed()
    }

    pub(super) fn subscribe(&mut self, id: u64) -> String {
        self.status = Status::Asked(id);
        let channel = serde_json::Value::from(self.name.as_str());
        format!(r#"{{"type":"subscribe","id":"{id}","channel":{channel}{}}}"#, self.track.wish())
    }

    pub(super) fn unsubscribe(&self, id: u64) -> String {
        format!(r#"{{"type":"unsubscribe","id":"{id}","channel":{}}}"#, serde_json::Value::from(self.name.as_str()))
    }

    /// The connection is gone.
    pub(super) fn suspend(&mut self) {
        if self.status != Status::Paused {
            self.status = Status::Wanted(None);
        }
    }

    /// Gives `true` if it has to pause, and the gateway is to be told.
    pub(super) fn on_subscribed(&mut self, frame: &Frame, id: Option<u64>) -> bool {
        // One without an id is the gateway's own doing.
        let is_ours = match (&self.status, id) {
            (Status::Asked(asked), Some(id)) => *asked == id,
            (Status::Active, None) => true,
            _ => false,
        };
        let Some(position) = frame.position().filter(|_| is_ours) else { return false };
        if !self.has_room() {
            return true;
        }
        self.status = Status::Active;
        let (recovered, gap) = self.track.subscribed(&position, frame.recovered == Some(true));
        if let Some(gap) = gap {
            self.tell(Event::Gap(gap));
        }
        self.tell(Event::Subscribed { position, recovered });
        false
    }

    /// Gives `true` if it has to pause, and the gateway is to be told.
    pub(super) fn on_message(&mut self, frame: Frame) -> bool {
        if self.status != Status::Active {
            return false;
        }
        if !self.has_room() {
            return true;
        }
        let Some(publication) = frame.into_publication() else { return false };
        if let Some(gap) = self.track.arrived(&publication.position) {
            if let Some(gap) = gap {
                self.tell(Event::Gap(gap));
            }
            self.tell(Event::Publication(publication));
        }
        false
    }

    /// Gives `true` if it has to pause, and the gateway is to be told.
    pub(super) fn on_state(&mut self, event: Event) -> bool {
        if self.status != Status::Active {
            return false;
        }
        if !self.has_room() {
            return true;
        }
        self.tell(event);
        false
    }

    pub(super) fn pause(&mut self) {
        self.status = Status::Paused;
        self.shared.is_paused.store(true, Ordering::SeqCst);
    }

    /// Goes on if enough was taken.
    pub(super) fn resume(&mut self) {
        if self.status == Status::Paused && self.events.capacity() >= self.events.max_capacity() / 2 {
            self.shared.is_paused.store(false, Ordering::SeqCst);
            self.status = Status::Wanted(None);
        }
    }

    /// Over for good; what waits can still be read.
    pub(super) fn end(self, error: Option<Error>) {
        *self.shared.end.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn has_room(&self) -> bool {
        self.events.capacity() >= ROOM
    }

    fn tell(&self, event: Event) {
        // There is room, or nobody reads.
        let _ = self.events.try_send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_cut_off_is_told_at_its_place_or_the_channel_pauses() {
        let (mut channel, mut events, shared) = Channel::new("c", SubscribeOptions { buffer: 4, ..Default::default() });
        assert!(!channel.on_state(Event::Degraded), "not of this connection");
        channel.status = Status::Active;
        assert!(!channel.on_state(Event::Degraded) && !channel.on_state(Event::Restored));
        assert!(matches!(events.try_recv(), Ok(Event::Degraded)));
        assert!(matches!(events.try_recv(), Ok(Event::Restored)));
        while !channel.on_state(Event::Degraded) {}
        channel.pause();
        assert!(shared.is_paused.load(Ordering::SeqCst), "it is told where it stands once it goes on");
    }
}
