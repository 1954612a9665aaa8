//! The hub: the subscribers of this node by channel, and the fan-out to them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use super::delivery::{Deliveries, SpawnDelivery};
use super::fanout::{Backpressure, Shard, Subscriber};
use super::presence::{Presence, PresenceEvent, PresenceSubscription};
use crate::broker::Principal;
use crate::broker::SlowConsumer;
use crate::broker::connection::Connection;
use crate::broker::counters::Counters;
use crate::broker::holder::Holder;
use crate::protocol::frame::server_frame::{Person, ServerFrame};
use crate::protocol::websocket::text_frame;
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Form, Publication, Refusal};

/// Locks over the map of channels, so that channels rarely wait for each other.
const LOCK_STRIPES: usize = 64;

/// A cheap handle; every method is synchronous and no lock is held when it returns.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    lock_stripes: Vec<RwLock<HashMap<ChannelName, Arc<Subscribers>>>>,
    hasher: RandomState,
    /// Shards of a large channel: one for each core.
    max_shards: usize,
    spawn: SpawnDelivery,
    counters: Arc<Counters>,
    presence: Presence,
}

/// The subscribers of one channel.
#[derive(Default)]
struct Subscribers {
    state: Mutex<SubscribersState>,
}

#[derive(Default)]
struct SubscribersState {
    count: u64,
    shards: Vec<Arc<Shard>>,
}

/// A new subscriber of a channel.
pub struct JoinRequest {
    pub connection: Arc<Connection>,
    /// `None` for a client without a token.
    pub principal: Option<Arc<Principal>>,
    /// A name without a channel counts for it.
    pub holder: Holder,
    pub form: Form,
    /// Different for each channel of the connection.
    pub tag: u64,
}

/// A subscription to a channel; ends when this is dropped.
pub struct Membership {
    hub: Hub,
    channel: ChannelName,
    subscriber: Arc<Subscriber>,
    shard: Arc<Shard>,
    at: usize,
    connection: u64,
    principal: Option<Arc<Principal>>,
    /// Dropped after the subscription has ended.
    _guard: Option<Box<dyn Send + Sync>>,
}

impl Hub {
    pub fn new(max_shards: usize, counters: Arc<Counters>, spawn: SpawnDelivery) -> Self {
        let lock_stripes = (0..LOCK_STRIPES).map(|_| RwLock::default()).collect();
        Self(Arc::new(Inner {
            lock_stripes,
            hasher: RandomState::new(),
            max_shards: max_shards.max(1),
            spawn,
            counters,
            presence: Presence::default(),
        }))
    }

    /// Adds a subscriber, which receives every offset after `seen`. `max_subscribers` of 0 means no limit.
    pub fn join(
        &self,
        channel: &ChannelName,
        request: JoinRequest,
        slow_consumer: SlowConsumer,
        seen: u64,
        max_subscribers: u64,
    ) -> Result<Membership, Refusal> {
        let mut stripe = self.lock_stripe(channel).write();
        let subscribers = stripe.entry(channel.clone()).or_default().clone();
        let mut state = subscribers.state.lock();
        if max_subscribers != 0 && state.count >= max_subscribers {
            return Err(Refusal::new(ErrorCode::ConnectionLimit, "channel is full (max_connections)"));
        }
        state.count += 1;
        let JoinRequest { connection, principal, holder: _, form, tag } = request;
        let event = PresenceEvent::Subscribed { connection: connection.id, person: person(principal.as_deref()) };
        self.0.presence.on_local_event(channel, event, state.count);
        let shard = state.shard_with_room(self.0.max_shards, &self.0.counters);
        drop(state);
        drop(stripe);
        let connection_id = connection.id;
        let subscriber = Arc::new(Subscriber::new(connection, form, slow_consumer, tag, seen));
        let at = shard.add(subscriber.clone());
        self.0.counters.subscriptions.increment(1);
        Ok(Membership {
            hub: self.clone(),
            channel: channel.clone(),
            subscriber,
            shard,
            at,
            connection: connection_id,
            principal,
            _guard: None,
        })
    }

    /// Whether the channel has subscribers on this node.
    pub fn has_subscribers_or_watchers(&self, channel: &ChannelName) -> bool {
        self.lock_stripe(channel).read().contains_key(channel)
    }

    /// Queues a publication for every subscriber. To be called in the order of offsets.
    pub fn fan_out(&self, channel: &ChannelName, publication: &Arc<Publication>) -> Deliveries {
        let Some(subscribers) = self.subscribers_of(channel) else {
            return Deliveries::default();
        };
        let state = subscribers.state.lock();
        let mut deliveries = Deliveries::new(self.0.spawn);
        for shard in &state.shards {
            deliveries.list.extend(shard.push(publication.clone()));
            deliveries.backpressure = deliveries.backpressure.or_else(|| Backpressure::of(shard));
        }
        deliveries
    }

    /// Sends every subscriber that the channel is degraded or restored.
    pub fn send_state(&self, channel: &ChannelName, state: &ServerFrame<'_>) {
        let Some(subscribers) = self.subscribers_of(channel) else { return };
        let (shards, frame) = (subscribers.state.lock().shards.clone(), text_frame(state.to_json().as_bytes()));
        shards.iter().for_each(|shard| shard.send_to_all(&frame));
    }

    /// Ends every subscription to a channel.
    pub fn end(&self, channel: &ChannelName, reason: CloseReason) {
        if let Some(subscribers) = self.subscribers_of(channel) {
            let shards = subscribers.state.lock().shards.clone();
            let ended = shards.iter().map(|shard| shard.end(channel, reason)).sum();
            self.leave(channel, ended, PresenceEvent::Ended(reason));
        }
    }

    /// Sends presence events to `connection`. Before the first event, `on_counted` is called with the number of subscribers
    /// on all nodes. `remote` are the counts of other nodes.
    pub fn watch_presence(
        &self,
        channel: ChannelName,
        connection: Arc<Connection>,
        remote: Vec<(String, u64)>,
        now: Instant,
        on_counted: impl FnOnce(u64),
    ) -> PresenceSubscription {
        // Locked, so that the count changes only with an event.
        let stripe = self.lock_stripe(&channel).write();
        let local = stripe.get(&channel).map_or(0, |subscribers| subscribers.state.lock().count);
        self.0.presence.add_local_watcher(channel, connection, local, remote, now, on_counted)
    }

    /// Sends presence events to another node until a time, and the current count at once.
    pub fn add_remote_watcher(&self, channel: &ChannelName, node: &str, until: Instant) {
        let stripe = self.lock_stripe(channel).write();
        let local = stripe.get(channel).map_or(0, |subscribers| subscribers.state.lock().count);
        self.0.presence.add_remote_watcher(channel, node, local, until);
    }

    pub fn presence(&self) -> &Presence {
        &self.0.presence
    }

    /// Subscribers of a channel on this node.
    pub fn subscriber_count(&self, channel: &ChannelName) -> u64 {
        self.subscribers_of(channel).map_or(0, |subscribers| subscribers.state.lock().count)
    }

    /// Counts subscribers that were removed from their shards.
    fn leave(&self, channel: &ChannelName, count: u64, event: PresenceEvent<'_>) {
        self.0.counters.subscriptions.decrement(count as f64);
        let mut stripe = self.lock_stripe(channel).write();
        let Some(subscribers) = stripe.get(channel) else { return };
        let remaining = {
            let mut state = subscribers.state.lock();
            state.count -= count;
            self.0.presence.on_local_event(channel, event, state.count);
            state.count
        };
        if remaining == 0 {
            stripe.remove(channel);
        }
    }

    fn subscribers_of(&self, channel: &ChannelName) -> Option<Arc<Subscribers>> {
        self.lock_stripe(channel).read().get(channel).cloned()
    }

    fn lock_stripe(&self, channel: &ChannelName) -> &RwLock<HashMap<ChannelName, Arc<Subscribers>>> {
        &self.0.lock_stripes[self.0.hasher.hash_one(channel) as usize % LOCK_STRIPES]
    }
}

impl SubscribersState {
    fn shard_with_room(&mut self, max_shards: usize, counters: &Arc<Counters>) -> Arc<Shard> {
        let free = self.shards.iter().find(|shard| !shard.is_full()).cloned();
        if let Some(shard) = free {
            return shard;
        }
        if self.shards.len() < max_shards {
            self.shards.push(Shard::new(counters.clone()));
        }
        self.shards
            .iter()
            .min_by_key(|shard| shard.subscriber_count())
            .expect("a channel has at least one shard")
            .clone()
    }
}

fn person(principal: Option<&Principal>) -> Option<Person<'_>> {
    principal.map(|principal| Person { issuer: &principal.issuer, subject: &principal.subject })
}

impl Membership {
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// Keeps `guard` until the subscription has ended.
    pub fn with_guard(mut self, guard: Option<impl Send + Sync + 'static>) -> Self {
        self._guard = guard.map(|guard| Box::new(guard) as Box<dyn Send + Sync>);
        self
    }

    pub(in crate::broker) fn subscriber(&self) -> Arc<Subscriber> {
        self.subscriber.clone()
    }

    /// `false` once the gateway ended the subscription.
    pub fn is_active(&self) -> bool {
        self.subscriber.is_active()
    }

    /// Sends the waiting publications to the subscriber, before anything that the caller sends next.
    pub fn catch_up(&self) {
        self.shard.catch_up(&self.subscriber);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // If the gateway ended it, it was removed then, and another subscriber may have its slot.
        if self.subscriber.deactivate() {
            self.shard.remove(self.at);
            let person = person(self.principal.as_deref());
            let event = PresenceEvent::Unsubscribed { connection: self.connection, person };
            self.hub.leave(&self.channel, 1, event);
        }
    }
}
