//! Who listens here: the channels of this node that have members, and the fan-out to them.

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
    /// Slices of a large channel: one for each core.
    max_shards: usize,
    spawn: SpawnDelivery,
    counters: Arc<Counters>,
    presence: Presence,
}

/// The members of one channel.
#[derive(Default)]
struct Subscribers {
    state: Mutex<SubscribersState>,
}

#[derive(Default)]
struct SubscribersState {
    members: u64,
    shards: Vec<Arc<Shard>>,
}

/// Who wants to join a channel.
pub struct JoinRequest {
    pub connection: Arc<Connection>,
    /// `None` for a client without a token.
    pub principal: Option<Arc<Principal>>,
    pub form: Form,
    /// Different for each channel of the connection.
    pub tag: u64,
}

/// A place among a channel's members; it is given up when this is dropped.
pub struct Membership {
    hub: Hub,
    channel: ChannelName,
    subscriber: Arc<Subscriber>,
    shard: Arc<Shard>,
    at: usize,
    connection: u64,
    principal: Option<Arc<Principal>>,
}

impl Hub {
    pub fn new(max_shards: usize, counters: Arc<Counters>, spawn: SpawnDelivery) -> Self {
        let shards = (0..LOCK_STRIPES).map(|_| RwLock::default()).collect();
        Self(Arc::new(Inner {
            lock_stripes: shards,
            hasher: RandomState::new(),
            max_shards: max_shards.max(1),
            spawn,
            counters,
            presence: Presence::default(),
        }))
    }

    /// Adds a member that is sent everything behind offset `seen`. `max_members` of 0 means no limit.
    pub fn join(
        &self,
        channel: &ChannelName,
        newcomer: JoinRequest,
        slow_consumer: SlowConsumer,
        seen: u64,
        max_members: u64,
    ) -> Result<Membership, Refusal> {
        let mut shard = self.lock_stripe(channel).write();
        let listeners = shard.entry(channel.clone()).or_default().clone();
        let mut state = listeners.state.lock();
        if max_members != 0 && state.members >= max_members {
            return Err(Refusal::new(ErrorCode::ConnectionLimit, "the channel has as many subscribers as it may have"));
        }
        state.members += 1;
        let JoinRequest { connection, principal, form, tag } = newcomer;
        let who = PresenceEvent::Subscribed { connection: connection.id, person: person(principal.as_deref()) };
        self.0.presence.on_local_event(channel, who, state.members);
        let slice = state.shard_with_room(self.0.max_shards, &self.0.counters);
        drop(state);
        drop(shard);
        let number = connection.id;
        let member = Arc::new(Subscriber::new(connection, form, slow_consumer, tag, seen));
        let at = slice.add(member.clone());
        self.0.counters.subscriptions.increment(1);
        Ok(Membership {
            hub: self.clone(),
            channel: channel.clone(),
            subscriber: member,
            shard: slice,
            at,
            connection: number,
            principal,
        })
    }

    /// Whether anybody here wants the publications of a channel.
    pub fn has_subscribers_or_watchers(&self, channel: &ChannelName) -> bool {
        self.lock_stripe(channel).read().contains_key(channel)
    }

    /// Puts a publication before every member. To be called in the order of offsets.
    pub fn fan_out(&self, channel: &ChannelName, publication: &Arc<Publication>) -> Deliveries {
        let Some(listeners) = self.subscribers_of(channel) else {
            return Deliveries::default();
        };
        let state = listeners.state.lock();
        let mut walks = Deliveries::new(self.0.spawn);
        for slice in &state.shards {
            walks.list.extend(slice.push(publication.clone()));
            walks.backpressure = walks.backpressure.or_else(|| Backpressure::of(slice));
        }
        walks
    }

    /// Tells every member that the channel is cut off from other nodes, or whole again.
    pub fn send_state(&self, channel: &ChannelName, state: &ServerFrame<'_>) {
        let Some(listeners) = self.subscribers_of(channel) else { return };
        let (slices, frame) = (listeners.state.lock().shards.clone(), text_frame(state.to_json().as_bytes()));
        slices.iter().for_each(|slice| slice.send_to_all(&frame));
    }

    /// Ends every subscription to a channel.
    pub fn end(&self, channel: &ChannelName, reason: CloseReason) {
        if let Some(listeners) = self.subscribers_of(channel) {
            let slices = listeners.state.lock().shards.clone();
            let ended = slices.iter().map(|slice| slice.end(channel, reason)).sum();
            self.leave(channel, ended, PresenceEvent::Ended(reason));
        }
    }

    /// Tells `connection` who comes and goes, from the number of members of all nodes on that `announce` is called with.
    /// `elsewhere` is what is known of other nodes.
    pub fn watch_presence(
        &self,
        channel: ChannelName,
        connection: Arc<Connection>,
        elsewhere: Vec<(String, u64)>,
        now: Instant,
        announce: impl FnOnce(u64),
    ) -> PresenceSubscription {
        // No one joins or leaves meanwhile.
        let shard = self.lock_stripe(&channel).write();
        let members = shard.get(&channel).map_or(0, |listeners| listeners.state.lock().members);
        self.0.presence.add_local_watcher(channel, connection, members, elsewhere, now, announce)
    }

    /// Tells another node who comes and goes here, for so long, and at once how many there are.
    pub fn add_remote_watcher(&self, channel: &ChannelName, node: &str, until: Instant) {
        let shard = self.lock_stripe(channel).write();
        let members = shard.get(channel).map_or(0, |listeners| listeners.state.lock().members);
        self.0.presence.add_remote_watcher(channel, node, members, until);
    }

    pub fn observers(&self) -> &Presence {
        &self.0.presence
    }

    /// Members of a channel on this node.
    pub fn subscriber_count(&self, channel: &ChannelName) -> u64 {
        self.subscribers_of(channel).map_or(0, |listeners| listeners.state.lock().members)
    }

    /// So many members were removed from their slices.
    fn leave(&self, channel: &ChannelName, count: u64, happened: PresenceEvent<'_>) {
        self.0.counters.subscriptions.decrement(count as f64);
        let mut shard = self.lock_stripe(channel).write();
        let Some(listeners) = shard.get(channel) else { return };
        let left = {
            let mut state = listeners.state.lock();
            state.members -= count;
            self.0.presence.on_local_event(channel, happened, state.members);
            state.members
        };
        if left == 0 {
            shard.remove(channel);
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
    fn shard_with_room(&mut self, max_slices: usize, counters: &Arc<Counters>) -> Arc<Shard> {
        let room = self.shards.iter().find(|slice| !slice.is_full()).cloned();
        if let Some(slice) = room {
            return slice;
        }
        if self.shards.len() < max_slices {
            self.shards.push(Shard::new(counters.clone()));
        }
        self.shards.iter().min_by_key(|slice| slice.subscriber_count()).expect("there is at least one slice").clone()
    }
}

fn person(principal: Option<&Principal>) -> Option<Person<'_>> {
    principal.map(|principal| Person { issuer: &principal.issuer, subject: &principal.subject })
}

impl Membership {
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    pub(in crate::broker) fn member(&self) -> Arc<Subscriber> {
        self.subscriber.clone()
    }

    /// `false` once the gateway has ended the subscription.
    pub fn is_active(&self) -> bool {
        self.subscriber.is_active()
    }

    /// Sends the member what was published so far, before anything that the caller sends next.
    pub fn catch_up(&self) {
        self.shard.catch_up(&self.subscriber);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // If the gateway ended it, it was removed then, and its place may be another's.
        if self.subscriber.deactivate() {
            self.shard.remove(self.at);
            let person = person(self.principal.as_deref());
            let who = PresenceEvent::Unsubscribed { connection: self.connection, person };
            self.hub.leave(&self.channel, 1, who);
        }
    }
}
