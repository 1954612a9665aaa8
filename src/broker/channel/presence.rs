//! Publishers that want to know who listens to their channels, on this node and on others.
//!
//! A node tells those on which somebody watches what happens to its own subscribers, each time with how many they are
//! then, and the number alone now and then. So whatever is lost on the way is set right soon.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::broker::Connection;
use crate::protocol::frame::server_frame::{Event, Person, ServerFrame};
use crate::protocol::{ChannelName, CloseReason};

/// An observer whose socket is this far behind is told less, and how much less.
const WATCHER_BEHIND_BYTES: usize = 64 * 1024;

/// A node is told for so long after it asked, and its subscribers count for so long after it was heard of.
pub const PRESENCE_LEASE: Duration = Duration::from_secs(15);

/// Words for other nodes that wait.
const MAX_QUEUED_UPDATES: usize = 4096;

#[derive(Clone, Default)]
pub struct Presence(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Asked before anything is locked: most channels have no observer.
    count: AtomicUsize,
    next: AtomicU64,
    by_channel: Mutex<HashMap<ChannelName, WatchedChannel>>,
    nodes: OnceLock<Nodes>,
}

/// The way to other nodes.
struct Nodes {
    own: Arc<str>,
    outgoing: mpsc::Sender<(Arc<str>, PresenceUpdate)>,
}

/// A channel that somebody watches, here or on another node.
#[derive(Default)]
struct WatchedChannel {
    /// Subscribers of this node.
    local: u64,
    /// Those of other nodes, and when they were heard of.
    remote: HashMap<Arc<str>, (u64, Instant)>,
    /// The sum that observers were told last.
    last_reported: u64,
    /// Told, and nobody came since.
    is_ended: bool,
    local_watchers: Vec<LocalWatcher>,
    remote_watchers: HashMap<Arc<str>, RemoteWatcher>,
}

struct LocalWatcher {
    number: u64,
    connection: Arc<Connection>,
    /// Events that it was not told.
    missed: u64,
}

/// A node on which somebody watches.
struct RemoteWatcher {
    until: Instant,
    missed: u64,
}

/// What has to be said again every few seconds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RefreshList {
    /// Channels that are watched here, for [`Bus::watch`](crate::broker::Bus::watch).
    pub local: Vec<ChannelName>,
    /// Channels that are watched on other nodes, for [`Presence::repeat`].
    pub remote: Vec<ChannelName>,
}

/// Tells a connection about a channel until it is dropped.
pub struct PresenceSubscription {
    presence: Presence,
    pub channel: ChannelName,
    number: u64,
}

/// What happened to a channel's subscribers on this node.
#[derive(Clone, Copy)]
pub enum PresenceEvent<'a> {
    Subscribed { connection: u64, person: Option<Person<'a>> },
    Unsubscribed { connection: u64, person: Option<Person<'a>> },
    Ended(CloseReason),
}

/// What one node tells another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceUpdate {
    channel: Arc<str>,
    /// `None` where there is only the number to tell.
    what: Option<WireEvent>,
    /// Subscribers of the node after it.
    connections: u64,
    /// Notices of the channel before this one that were left out.
    missed: u64,
}

/// [`PresenceEvent`], as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum WireEvent {
    Subscribed { connection: u64, person: Option<(Arc<str>, Arc<str>)> },
    Unsubscribed { connection: u64, person: Option<(Arc<str>, Arc<str>)> },
    Ended(String),
}

impl Presence {
    /// From now on other nodes are told and counted. Returns the words for them, each with its node.
    pub fn enable_cluster(&self, own: &str) -> mpsc::Receiver<(Arc<str>, PresenceUpdate)> {
        let (outward, notices) = mpsc::channel(MAX_QUEUED_UPDATES);
        // Whoever asks again gets words that nobody sends.
        let _ = self.0.nodes.set(Nodes { own: own.into(), outgoing: outward });
        notices
    }

    /// Tells `connection` from now on. `here` are the subscribers of this node, `elsewhere` what is known of others;
    /// `announce` is called with their sum, before the first event.
    pub(super) fn add_local_watcher(
        &self,
        channel: ChannelName,
        connection: Arc<Connection>,
        here: u64,
        elsewhere: Vec<(String, u64)>,
        now: Instant,
        announce: impl FnOnce(u64),
    ) -> PresenceSubscription {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut by_channel = self.0.by_channel.lock();
        let watched = by_channel.entry(channel.clone()).or_default();
        watched.local = here;
        for (node, count) in elsewhere {
            // What the node itself said is newer.
            watched.remote.entry(node.into()).or_insert((count, now));
        }
        // Those that watch already are told with the next event.
        watched.last_reported = watched.sum();
        watched.local_watchers.push(LocalWatcher { number, connection, missed: 0 });
        announce(watched.last_reported);
        self.0.count.store(by_channel.len(), Ordering::Relaxed);
        PresenceSubscription { presence: self.clone(), channel, number }
    }

    /// Tells `node` until then, and at once how many subscribers there are here.
    pub(super) fn add_remote_watcher(&self, channel: &ChannelName, node: &str, here: u64, until: Instant) {
        let Some(nodes) = self.0.nodes.get() else { return };
        let mut by_channel = self.0.by_channel.lock();
        let watched = by_channel.entry(channel.clone()).or_default();
        watched.local = here;
        let node = Arc::<str>::from(node);
        let watcher = watched.remote_watchers.entry(node.clone()).or_insert(RemoteWatcher { until, missed: 0 });
        watcher.until = until;
        watcher.notify(nodes, &node, channel, None, here);
        self.0.count.store(by_channel.len(), Ordering::Relaxed);
    }

    /// `here` listen now on this node. To be called in the order of what happens.
    pub(super) fn on_local_event(&self, channel: &ChannelName, happened: PresenceEvent<'_>, here: u64) {
        if self.0.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut by_channel = self.0.by_channel.lock();
        let Some(watched) = by_channel.get_mut(channel) else { return };
        watched.local = here;
        let nodes = self.0.nodes.get();
        watched.on_event(channel, happened, nodes.map(|nodes| &*nodes.own));
        if let Some(nodes) = nodes {
            for (node, watcher) in &mut watched.remote_watchers {
                watcher.notify(nodes, node, channel, Some(WireEvent::of(happened)), here);
            }
        }
    }

    /// Another node told something about its subscribers. To be called in the order of what it says.
    pub fn on_remote_update(&self, node: &str, notice: &PresenceUpdate, now: Instant) {
        let PresenceUpdate { channel, what, connections, missed } = notice;
        let Ok(channel) = ChannelName::from_dialect(channel) else { return };
        let mut by_channel = self.0.by_channel.lock();
        let Some(watched) = by_channel.get_mut(&channel).filter(|watched| !watched.local_watchers.is_empty()) else {
            return;
        };
        watched.remote.insert(node.into(), (*connections, now));
        watched.local_watchers.iter_mut().for_each(|observer| observer.missed += missed);
        match what.as_ref().and_then(WireEvent::happened) {
            Some(happened) => watched.on_event(&channel, happened, Some(node)),
            None => watched.send_count_if_changed(&channel),
        }
    }

    /// Forgets nodes that were not heard of for too long. To be called every few seconds; gives what is to be said again.
    pub fn refresh(&self, now: Instant) -> RefreshList {
        let mut by_channel = self.0.by_channel.lock();
        let mut renewal = RefreshList::default();
        for (channel, watched) in by_channel.iter_mut() {
            watched.remote_watchers.retain(|_, watcher| watcher.until > now);
            if !watched.remote_watchers.is_empty() {
                renewal.remote.push(channel.clone());
            }
            if !watched.local_watchers.is_empty() {
                watched.remote.retain(|_, (_, heard)| now.saturating_duration_since(*heard) < PRESENCE_LEASE);
                watched.send_count_if_changed(channel);
                renewal.local.push(channel.clone());
            }
        }
        by_channel.retain(|_, watched| watched.is_wanted());
        self.0.count.store(by_channel.len(), Ordering::Relaxed);
        renewal
    }

    /// Tells the nodes that watch a channel how many there are here.
    pub fn resend_counts(&self, channel: &ChannelName) {
        let Some(nodes) = self.0.nodes.get() else { return };
        if let Some(watched) = self.0.by_channel.lock().get_mut(channel) {
            for (node, watcher) in &mut watched.remote_watchers {
                watcher.notify(nodes, node, channel, None, watched.local);
            }
        }
    }
}

impl WatchedChannel {
    fn sum(&self) -> u64 {
        self.local + self.remote.values().map(|(count, _)| count).sum::<u64>()
    }

    fn is_wanted(&self) -> bool {
        !self.local_watchers.is_empty() || !self.remote_watchers.is_empty()
    }

    /// `node` is where it happened.
    fn on_event(&mut self, channel: &ChannelName, happened: PresenceEvent<'_>, node: Option<&str>) {
        match happened {
            // Each node ends the subscriptions of its own; that is one end.
            PresenceEvent::Ended(_) if self.is_ended => return self.send_count_if_changed(channel),
            PresenceEvent::Ended(reason) => {
                self.is_ended = true;
                // The others are about to say so.
                if reason != CloseReason::EngineUnavailable {
                    self.local = 0;
                    self.remote.values_mut().for_each(|(count, _)| *count = 0);
                }
            }
            PresenceEvent::Subscribed { .. } => self.is_ended = false,
            PresenceEvent::Unsubscribed { .. } => {}
        }
        self.last_reported = self.sum();
        for observer in &mut self.local_watchers {
            observer.tell(channel, Some(happened), node, self.last_reported);
        }
    }

    /// Tells the number if it is another one than was told.
    fn send_count_if_changed(&mut self, channel: &ChannelName) {
        let sum = self.sum();
        if std::mem::replace(&mut self.last_reported, sum) != sum {
            self.local_watchers.iter_mut().for_each(|observer| observer.tell(channel, None, None, sum));
        }
    }
}

impl LocalWatcher {
    fn tell(
        &mut self,
        channel: &ChannelName,
        happened: Option<PresenceEvent<'_>>,
        node: Option<&str>,
        connections: u64,
    ) {
        if self.connection.waiting_bytes() > WATCHER_BEHIND_BYTES {
            self.missed += 1;
            return;
        }
        let (event, who, reason) = match happened {
            Some(PresenceEvent::Subscribed { connection, person }) => {
                (Event::Subscribed, Some((connection, person)), None)
            }
            Some(PresenceEvent::Unsubscribed { connection, person }) => {
                (Event::Unsubscribed, Some((connection, person)), None)
            }
            Some(PresenceEvent::Ended(reason)) => (Event::Ended, None, Some(reason.name())),
            None => (Event::Counted, None, None),
        };
        let name = who.map(|(connection, _)| format!("c-{connection:x}"));
        let event = ServerFrame::Event {
            channel: channel.as_str(),
            event,
            connection: name.as_deref(),
            node: node.filter(|_| who.is_some()),
            principal: who.and_then(|(_, person)| person),
            reason,
            connections,
            missed: std::mem::take(&mut self.missed),
        };
        self.connection.send_text(&event.to_json());
    }
}

impl RemoteWatcher {
    fn notify(
        &mut self,
        nodes: &Nodes,
        node: &Arc<str>,
        channel: &ChannelName,
        what: Option<WireEvent>,
        connections: u64,
    ) {
        let is_event = what.is_some();
        let notice = PresenceUpdate { channel: channel.as_str().into(), what, connections, missed: self.missed };
        match nodes.outgoing.try_send((node.clone(), notice)) {
            Ok(()) => self.missed = 0,
            Err(_) => self.missed += u64::from(is_event),
        }
    }
}

impl WireEvent {
    fn of(happened: PresenceEvent<'_>) -> Self {
        let owned = |person: Option<Person<'_>>| person.map(|person| (person.issuer.into(), person.subject.into()));
        match happened {
            PresenceEvent::Subscribed { connection, person } => Self::Subscribed { connection, person: owned(person) },
            PresenceEvent::Unsubscribed { connection, person } => {
                Self::Unsubscribed { connection, person: owned(person) }
            }
            PresenceEvent::Ended(reason) => Self::Ended(reason.name().to_owned()),
        }
    }

    /// `None` for what only a newer node says.
    fn happened(&self) -> Option<PresenceEvent<'_>> {
        fn person(person: &Option<(Arc<str>, Arc<str>)>) -> Option<Person<'_>> {
            person.as_ref().map(|(issuer, subject)| Person { issuer, subject })
        }
        Some(match self {
            Self::Subscribed { connection, person: who } => {
                PresenceEvent::Subscribed { connection: *connection, person: person(who) }
            }
            Self::Unsubscribed { connection, person: who } => {
                PresenceEvent::Unsubscribed { connection: *connection, person: person(who) }
            }
            Self::Ended(name) => {
                PresenceEvent::Ended(CloseReason::ALL.into_iter().find(|reason| reason.name() == name)?)
            }
        })
    }
}

impl Drop for PresenceSubscription {
    fn drop(&mut self) {
        let mut by_channel = self.presence.0.by_channel.lock();
        let Some(watched) = by_channel.get_mut(&self.channel) else { return };
        watched.local_watchers.retain(|observer| observer.number != self.number);
        if watched.local_watchers.is_empty() {
            watched.remote.clear();
        }
        if !watched.is_wanted() {
            by_channel.remove(&self.channel);
        }
        self.presence.0.count.store(by_channel.len(), Ordering::Relaxed);
    }
}
