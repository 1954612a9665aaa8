//! Presence: reports the subscribers of a channel, on all nodes, to publishers that watch it.
//!
//! Each node sends its own join and leave events, with its count of subscribers, to the nodes that have a watcher. It
//! also sends the bare count every few seconds, which corrects lost events.

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

/// A watcher with more bytes than this in its outbox misses events, and is sent their number later.
const WATCHER_BEHIND_BYTES: usize = 64 * 1024;

/// How long a node is sent updates after its last request, and how long its count is valid after its last update.
pub const PRESENCE_LEASE: Duration = Duration::from_secs(15);

/// Nodes that are sent the updates of one channel. Redis may name others than there are.
const MAX_REMOTE_WATCHERS: usize = 1024;

/// Updates that wait for other nodes.
const MAX_QUEUED_UPDATES: usize = 4096;

#[derive(Clone, Default)]
pub struct Presence(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Watched channels. Read before the lock: most channels have no watcher.
    count: AtomicUsize,
    next_id: AtomicU64,
    by_channel: Mutex<HashMap<ChannelName, WatchedChannel>>,
    nodes: OnceLock<Nodes>,
}

/// The queue to other nodes.
struct Nodes {
    own: Arc<str>,
    outgoing: mpsc::Sender<(Arc<str>, PresenceUpdate)>,
}

/// A channel with a watcher, on this node or on another one.
#[derive(Default)]
struct WatchedChannel {
    /// Subscribers of this node.
    local: u64,
    /// Counts of other nodes, with the time of the last update.
    remote: HashMap<Arc<str>, (u64, Instant)>,
    /// The sum that local watchers were sent last.
    last_reported: u64,
    /// The end was reported, and no subscriber joined since.
    is_ended: bool,
    local_watchers: Vec<LocalWatcher>,
    remote_watchers: HashMap<Arc<str>, RemoteWatcher>,
}

struct LocalWatcher {
    id: u64,
    connection: Arc<Connection>,
    /// Events that were not sent.
    missed: u64,
}

/// A node that has a watcher.
struct RemoteWatcher {
    until: Instant,
    missed: u64,
}

/// Channels whose watches have to be renewed every few seconds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RefreshList {
    /// Channels with a watcher here, for [`NodeBus::watch_presence`](crate::broker::NodeBus::watch_presence).
    pub local: Vec<ChannelName>,
    /// Channels with a watcher on another node, for [`Presence::resend_counts`].
    pub remote: Vec<ChannelName>,
}

/// Sends presence events of a channel to a connection until it is dropped.
pub struct PresenceSubscription {
    presence: Presence,
    pub channel: ChannelName,
    id: u64,
}

/// An event of a channel's subscribers.
#[derive(Clone, Copy)]
pub enum PresenceEvent<'a> {
    Subscribed { connection: u64, person: Option<Person<'a>> },
    Unsubscribed { connection: u64, person: Option<Person<'a>> },
    Ended(CloseReason),
}

/// A message from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceUpdate {
    channel: Arc<str>,
    /// `None` for the bare count.
    what: Option<WireEvent>,
    /// Subscribers of the node after the event.
    connections: u64,
    /// Events of the channel that were dropped before this one.
    missed: u64,
}

/// [`PresenceEvent`], as nodes send it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum WireEvent {
    Subscribed { connection: u64, person: Option<(Arc<str>, Arc<str>)> },
    Unsubscribed { connection: u64, person: Option<(Arc<str>, Arc<str>)> },
    Ended(String),
}

impl Presence {
    /// Starts to exchange presence with other nodes. Returns the updates to send, each with its node. To be called once.
    pub fn enable_cluster(&self, own: &str) -> mpsc::Receiver<(Arc<str>, PresenceUpdate)> {
        let (outgoing, updates) = mpsc::channel(MAX_QUEUED_UPDATES);
        // After the first call the returned queue stays empty.
        let _ = self.0.nodes.set(Nodes { own: own.into(), outgoing });
        updates
    }

    /// Sends events to `connection` from now on. `local` is the count of this node, `remote` the counts of others.
    /// `on_counted` is called with their sum, before the first event.
    pub(super) fn add_local_watcher(
        &self,
        channel: ChannelName,
        connection: Arc<Connection>,
        local: u64,
        remote: Vec<(String, u64)>,
        now: Instant,
        on_counted: impl FnOnce(u64),
    ) -> PresenceSubscription {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let mut by_channel = self.0.by_channel.lock();
        let watched = by_channel.entry(channel.clone()).or_default();
        watched.local = local;
        for (node, count) in remote {
            // An update of the node itself is newer.
            watched.remote.entry(node.into()).or_insert((count, now));
        }
        // Other watchers receive the new count with the next event.
        watched.last_reported = watched.sum();
        watched.local_watchers.push(LocalWatcher { id, connection, missed: 0 });
        on_counted(watched.last_reported);
        self.0.count.store(by_channel.len(), Ordering::Relaxed);
        PresenceSubscription { presence: self.clone(), channel, id }
    }

    /// Sends events to `node` until a time, and the current count at once.
    pub(super) fn add_remote_watcher(&self, channel: &ChannelName, node: &str, local: u64, until: Instant) {
        let Some(nodes) = self.0.nodes.get() else { return };
        let mut by_channel = self.0.by_channel.lock();
        let watched = by_channel.entry(channel.clone()).or_default();
        watched.local = local;
        if watched.remote_watchers.len() >= MAX_REMOTE_WATCHERS && !watched.remote_watchers.contains_key(node) {
            return;
        }
        let node = Arc::<str>::from(node);
        let watcher = watched.remote_watchers.entry(node.clone()).or_insert(RemoteWatcher { until, missed: 0 });
        watcher.until = until;
        watcher.notify(nodes, &node, channel, None, local);
        self.0.count.store(by_channel.len(), Ordering::Relaxed);
    }

    /// `local` is the count of this node after the event. To be called in the order of events.
    pub(super) fn on_local_event(&self, channel: &ChannelName, event: PresenceEvent<'_>, local: u64) {
        if self.0.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut by_channel = self.0.by_channel.lock();
        let Some(watched) = by_channel.get_mut(channel) else { return };
        watched.local = local;
        let nodes = self.0.nodes.get();
        watched.on_event(channel, event, nodes.map(|nodes| &*nodes.own));
        if let Some(nodes) = nodes {
            for (node, watcher) in &mut watched.remote_watchers {
                watcher.notify(nodes, node, channel, Some(WireEvent::of(event)), local);
            }
        }
    }

    /// Handles an update of another node. To be called in the order of its updates.
    pub fn on_remote_update(&self, node: &str, update: &PresenceUpdate, now: Instant) {
        let PresenceUpdate { channel, what, connections, missed } = update;
        let Ok(channel) = ChannelName::from_dialect(channel) else { return };
        let mut by_channel = self.0.by_channel.lock();
        let Some(watched) = by_channel.get_mut(&channel).filter(|watched| !watched.local_watchers.is_empty()) else {
            return;
        };
        watched.remote.insert(node.into(), (*connections, now));
        watched.local_watchers.iter_mut().for_each(|watcher| watcher.missed = watcher.missed.saturating_add(*missed));
        match what.as_ref().and_then(WireEvent::event) {
            Some(event) => watched.on_event(&channel, event, Some(node)),
            None => watched.send_count_if_changed(&channel),
        }
    }

    /// Drops the counts of nodes without a recent update. To be called every few seconds.
    pub fn refresh(&self, now: Instant) -> RefreshList {
        let mut by_channel = self.0.by_channel.lock();
        let mut refresh = RefreshList::default();
        for (channel, watched) in by_channel.iter_mut() {
            watched.remote_watchers.retain(|_, watcher| watcher.until > now);
            if !watched.remote_watchers.is_empty() {
                refresh.remote.push(channel.clone());
            }
            if !watched.local_watchers.is_empty() {
                watched.remote.retain(|_, (_, updated)| now.saturating_duration_since(*updated) < PRESENCE_LEASE);
                watched.send_count_if_changed(channel);
                refresh.local.push(channel.clone());
            }
        }
        by_channel.retain(|_, watched| watched.is_watched());
        self.0.count.store(by_channel.len(), Ordering::Relaxed);
        refresh
    }

    /// Sends the count of this node to the nodes that watch a channel.
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
        // Counts come from other processes.
        self.remote.values().fold(self.local, |sum, (count, _)| sum.saturating_add(*count))
    }

    fn is_watched(&self) -> bool {
        !self.local_watchers.is_empty() || !self.remote_watchers.is_empty()
    }

    /// `node` is the node of the subscriber.
    fn on_event(&mut self, channel: &ChannelName, event: PresenceEvent<'_>, node: Option<&str>) {
        match event {
            // Each node ends its own subscriptions: the first report counts.
            PresenceEvent::Ended(_) if self.is_ended => return self.send_count_if_changed(channel),
            PresenceEvent::Ended(reason) => {
                self.is_ended = true;
                // After an unavailable engine, the other nodes report their own counts.
                if reason != CloseReason::EngineUnavailable {
                    self.local = 0;
                    self.remote.values_mut().for_each(|(count, _)| *count = 0);
                }
            }
            PresenceEvent::Subscribed { .. } => self.is_ended = false,
            PresenceEvent::Unsubscribed { .. } => {}
        }
        self.last_reported = self.sum();
        for watcher in &mut self.local_watchers {
            watcher.notify(channel, Some(event), node, self.last_reported);
        }
    }

    /// Sends the count if it changed since the last report.
    fn send_count_if_changed(&mut self, channel: &ChannelName) {
        let sum = self.sum();
        if std::mem::replace(&mut self.last_reported, sum) != sum {
            self.local_watchers.iter_mut().for_each(|watcher| watcher.notify(channel, None, None, sum));
        }
    }
}

impl LocalWatcher {
    fn notify(
        &mut self,
        channel: &ChannelName,
        event: Option<PresenceEvent<'_>>,
        node: Option<&str>,
        connections: u64,
    ) {
        if self.connection.waiting_bytes() > WATCHER_BEHIND_BYTES {
            self.missed += 1;
            return;
        }
        let (event, subscriber, reason) = match event {
            Some(PresenceEvent::Subscribed { connection, person }) => {
                (Event::Subscribed, Some((connection, person)), None)
            }
            Some(PresenceEvent::Unsubscribed { connection, person }) => {
                (Event::Unsubscribed, Some((connection, person)), None)
            }
            Some(PresenceEvent::Ended(reason)) => (Event::Ended, None, Some(reason.name())),
            None => (Event::Counted, None, None),
        };
        let name = subscriber.map(|(connection, _)| format!("c-{connection:x}"));
        let event = ServerFrame::Event {
            channel: channel.as_str(),
            event,
            connection: name.as_deref(),
            node: node.filter(|_| subscriber.is_some()),
            principal: subscriber.and_then(|(_, person)| person),
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
        let update = PresenceUpdate { channel: channel.as_str().into(), what, connections, missed: self.missed };
        match nodes.outgoing.try_send((node.clone(), update)) {
            Ok(()) => self.missed = 0,
            Err(_) => self.missed += u64::from(is_event),
        }
    }
}

impl WireEvent {
    fn of(event: PresenceEvent<'_>) -> Self {
        let owned = |person: Option<Person<'_>>| person.map(|person| (person.issuer.into(), person.subject.into()));
        match event {
            PresenceEvent::Subscribed { connection, person } => Self::Subscribed { connection, person: owned(person) },
            PresenceEvent::Unsubscribed { connection, person } => {
                Self::Unsubscribed { connection, person: owned(person) }
            }
            PresenceEvent::Ended(reason) => Self::Ended(reason.name().to_owned()),
        }
    }

    /// `None` for an event of a newer version.
    fn event(&self) -> Option<PresenceEvent<'_>> {
        fn person(person: &Option<(Arc<str>, Arc<str>)>) -> Option<Person<'_>> {
            person.as_ref().map(|(issuer, subject)| Person { issuer, subject })
        }
        Some(match self {
            Self::Subscribed { connection, person: subscriber } => {
                PresenceEvent::Subscribed { connection: *connection, person: person(subscriber) }
            }
            Self::Unsubscribed { connection, person: subscriber } => {
                PresenceEvent::Unsubscribed { connection: *connection, person: person(subscriber) }
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
        watched.local_watchers.retain(|watcher| watcher.id != self.id);
        if watched.local_watchers.is_empty() {
            watched.remote.clear();
        }
        if !watched.is_watched() {
            by_channel.remove(&self.channel);
        }
        self.presence.0.count.store(by_channel.len(), Ordering::Relaxed);
    }
}
