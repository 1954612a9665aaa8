//! Publishers that want to know who listens to their channels.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::{Connection, Principal};
use crate::protocol::reply::{Event, Person, Reply};
use crate::protocol::{ChannelName, CloseReason};

/// An observer whose socket is this far behind is told less, and how much less.
const BEHIND_BYTES: usize = 64 * 1024;

#[derive(Clone, Default)]
pub struct Observers(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Asked before anything is locked: most channels have no observer.
    count: AtomicUsize,
    next: AtomicU64,
    by_channel: RwLock<HashMap<ChannelName, Vec<Observer>>>,
}

struct Observer {
    number: u64,
    connection: Arc<Connection>,
    /// Events that it was not told.
    missed: AtomicU64,
}

/// Tells a connection about a channel until it is dropped.
pub struct Observation {
    observers: Observers,
    pub channel: ChannelName,
    number: u64,
}

/// What happened to a channel's subscribers on this node.
#[derive(Clone, Copy)]
pub enum Happened<'a> {
    Subscribed { connection: u64, principal: Option<&'a Principal> },
    Unsubscribed { connection: u64, principal: Option<&'a Principal> },
    Ended(CloseReason),
}

impl Observers {
    pub fn add(&self, channel: ChannelName, connection: Arc<Connection>) -> Observation {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let observer = Observer { number, connection, missed: AtomicU64::new(0) };
        self.0.by_channel.write().entry(channel.clone()).or_default().push(observer);
        self.0.count.fetch_add(1, Ordering::Relaxed);
        Observation { observers: self.clone(), channel, number }
    }

    /// `connections` listen now. To be called in the order of what happens.
    pub fn tell(&self, channel: &ChannelName, happened: Happened<'_>, connections: u64) {
        if self.0.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let by_channel = self.0.by_channel.read();
        for observer in by_channel.get(channel).into_iter().flatten() {
            observer.tell(channel, happened, connections);
        }
    }
}

impl Observer {
    fn tell(&self, channel: &ChannelName, happened: Happened<'_>, connections: u64) {
        if self.connection.waiting_bytes() > BEHIND_BYTES {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let name;
        let (event, who, principal, reason) = match happened {
            Happened::Subscribed { connection, principal } => {
                name = format!("c-{connection:x}");
                (Event::Subscribed, Some(name.as_str()), principal, None)
            }
            Happened::Unsubscribed { connection, principal } => {
                name = format!("c-{connection:x}");
                (Event::Unsubscribed, Some(name.as_str()), principal, None)
            }
            Happened::Ended(reason) => (Event::Ended, None, None, Some(reason.name())),
        };
        let event = Reply::Event {
            channel: channel.as_str(),
            event,
            connection: who,
            principal: principal.map(|principal| Person { issuer: &principal.issuer, subject: &principal.subject }),
            reason,
            connections,
            missed: self.missed.swap(0, Ordering::Relaxed),
        };
        self.connection.send_text(&event.to_json());
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.observers.0.count.fetch_sub(1, Ordering::Relaxed);
        let mut by_channel = self.observers.0.by_channel.write();
        let Some(observers) = by_channel.get_mut(&self.channel) else { return };
        observers.retain(|observer| observer.number != self.number);
        if observers.is_empty() {
            by_channel.remove(&self.channel);
        }
    }
}
