//! Fan-out of one channel on this node: its subscribers in shards, and the deliveries to them.
//!
//! A publication is queued for every shard. A delivery then writes all queued publications to each subscriber of
//! its shard. So a single publication is never delayed, and publications that arrive faster share a system call.
//! A shard has at most one delivery at a time, which keeps the order for each subscriber. Shards are delivered in
//! parallel on all cores.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;

use crate::broker::SlowConsumer;
use crate::broker::connection::{Connection, Sent};
use crate::broker::counters::Counters;
use crate::protocol::frame::server_frame::ServerFrame;
use crate::protocol::publication::Form;
use crate::protocol::{ChannelName, CloseReason, Publication};

/// Subscribers of a shard before another shard is created.
const SHARD_CAPACITY: usize = 256;

/// Publishers wait while more bytes than this wait for a shard.
const BACKPRESSURE_BYTES: usize = 128 * 1024;

/// One subscription of one connection.
pub struct Subscriber {
    connection: Arc<Connection>,
    form: Form,
    slow_consumer: SlowConsumer,
    /// Identifies the channel within the connection, for [`SlowConsumer::Latest`].
    tag: u64,
    /// The newest offset that was sent. This and `active` change only under the connection's lock.
    seen: AtomicU64,
    active: AtomicBool,
}

impl Subscriber {
    pub fn new(connection: Arc<Connection>, form: Form, slow_consumer: SlowConsumer, tag: u64, seen: u64) -> Self {
        connection.subscribed();
        Self { connection, form, slow_consumer, tag, seen: seen.into(), active: true.into() }
    }

    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Ends the subscription: nothing of the channel is sent after this returns. `false` if it had ended before.
    pub fn deactivate(&self) -> bool {
        let _outgoing = self.connection.lock();
        let was_active = self.active.swap(false, Ordering::Relaxed);
        if was_active {
            self.connection.unsubscribed();
        }
        was_active
    }

    /// Ends the subscription and reports the reason. A connection whose last channel ends is closed with the same
    /// reason, so that its client knows whether to reconnect. `false` if it had ended before.
    fn end(&self, channel: &ChannelName, reason: CloseReason) -> bool {
        {
            let mut outgoing = self.connection.lock();
            if !self.active.swap(false, Ordering::Relaxed) {
                return false;
            }
            if self.form.is_native() {
                let json = ServerFrame::ended(channel.as_str(), reason).to_json();
                outgoing.send(&crate::protocol::websocket::text_frame(json.as_bytes()), None);
            }
        }
        if self.connection.unsubscribed() == 0 {
            self.connection.close(reason);
        }
        true
    }

    /// Sends a frame that is no publication to a client of the native protocol.
    fn send(&self, frame: &Bytes) -> Option<Sent> {
        let mut outgoing = self.connection.lock();
        (self.form.is_native() && self.is_active()).then(|| outgoing.send(frame, None))
    }

    /// Sends the publications of `batch` that were not sent before.
    fn deliver(&self, batch: &Batch, tally: &mut Tally) {
        let mut outgoing = self.connection.lock();
        if !self.active.load(Ordering::Relaxed) {
            return;
        }
        let seen = self.seen.load(Ordering::Relaxed);
        let fresh = batch.after(seen);
        let Some(newest) = fresh.last() else { return };
        self.seen.store(newest.offset, Ordering::Relaxed);
        let mut send = |frame: &Bytes, latest, count: usize| match outgoing.send(frame, latest) {
            Sent::Written | Sent::Queued => tally.delivered += count as u64,
            Sent::Overflowed => tally.overflowed += 1,
            Sent::Gone => {}
        };
        match self.slow_consumer {
            SlowConsumer::Disconnect if fresh.len() == batch.publications.len() => {
                send(batch.joined(self.form), None, fresh.len());
            }
            SlowConsumer::Disconnect => {
                fresh.iter().for_each(|publication| send(publication.frame(self.form), None, 1))
            }
            SlowConsumer::Latest => {
                fresh.iter().for_each(|publication| send(publication.frame(self.form), Some(self.tag), 1))
            }
        }
    }
}

/// Publications that are sent together.
struct Batch {
    publications: Vec<Arc<Publication>>,
    /// All frames of a form in one buffer.
    joined: [OnceLock<Bytes>; Form::COUNT],
}

impl Batch {
    fn new(publications: Vec<Arc<Publication>>) -> Self {
        Self { publications, joined: Default::default() }
    }

    /// The publications after an offset; offsets rise.
    fn after(&self, seen: u64) -> &[Arc<Publication>] {
        match self.publications.first() {
            Some(first) if first.offset > seen => &self.publications,
            _ => &self.publications[self.publications.partition_point(|publication| publication.offset <= seen)..],
        }
    }

    fn joined(&self, form: Form) -> &Bytes {
        if let [only] = &self.publications[..] {
            return only.frame(form);
        }
        self.joined[form as usize].get_or_init(|| {
            let length = self.publications.iter().map(|publication| publication.frame(form).len()).sum();
            let mut joined = BytesMut::with_capacity(length);
            self.publications.iter().for_each(|publication| joined.extend_from_slice(publication.frame(form)));
            joined.freeze()
        })
    }
}

#[derive(Default)]
struct Tally {
    delivered: u64,
    overflowed: u64,
}

/// A part of a channel's subscribers, served by one delivery at a time.
pub struct Shard {
    state: Mutex<ShardState>,
    /// Notifies publishers that the delivery took the queued publications.
    space_available: Notify,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct ShardState {
    subscribers: Slab<Arc<Subscriber>>,
    /// The subscribers as an array, made by the first delivery after a change.
    snapshot: Option<Arc<[Arc<Subscriber>]>>,
    pending: Vec<Arc<Publication>>,
    pending_bytes: usize,
    is_delivering: bool,
    /// The batch that is being delivered.
    in_flight: Option<Arc<Batch>>,
}

impl Shard {
    pub fn new(counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), space_available: Notify::new(), counters })
    }

    pub fn is_full(&self) -> bool {
        self.state.lock().subscribers.len() >= SHARD_CAPACITY
    }

    pub fn subscriber_count(&self) -> usize {
        self.state.lock().subscribers.len()
    }

    pub fn add(&self, subscriber: Arc<Subscriber>) -> usize {
        let mut state = self.state.lock();
        state.snapshot = None;
        state.subscribers.insert(subscriber)
    }

    pub fn remove(&self, at: usize) {
        let mut state = self.state.lock();
        state.snapshot = None;
        state.subscribers.try_remove(at);
    }

    /// Queues a publication. Returns a delivery if the shard has none; the caller has to run it.
    pub fn push(self: &Arc<Self>, publication: Arc<Publication>) -> Option<Delivery> {
        let mut state = self.state.lock();
        if state.subscribers.is_empty() {
            return None;
        }
        state.pending_bytes += publication.frame(Form::Native).len();
        state.pending.push(publication);
        if std::mem::replace(&mut state.is_delivering, true) {
            return None;
        }
        Some(Delivery { shard: self.clone(), in_flight: None })
    }

    /// Sends `subscriber` the queued publications before the delivery reaches it.
    pub fn catch_up(&self, subscriber: &Subscriber) {
        let (in_flight, pending) = {
            let state = self.state.lock();
            (state.in_flight.clone(), Batch::new(state.pending.clone()))
        };
        let mut tally = Tally::default();
        in_flight.iter().for_each(|batch| subscriber.deliver(batch, &mut tally));
        subscriber.deliver(&pending, &mut tally);
        self.count(&tally);
    }

    /// Sends every subscriber a frame that is no publication, after the publications that were accepted before.
    pub fn send_to_all(&self, frame: &Bytes) {
        let subscribers: Vec<_> =
            self.state.lock().subscribers.iter().map(|(_, subscriber)| subscriber.clone()).collect();
        let mut tally = Tally::default();
        for subscriber in subscribers {
            self.catch_up(&subscriber);
            tally.overflowed += u64::from(matches!(subscriber.send(frame), Some(Sent::Overflowed)));
        }
        self.count(&tally);
    }

    /// Ends and removes the subscription of every subscriber. Returns their number.
    pub fn end(&self, channel: &ChannelName, reason: CloseReason) -> u64 {
        let subscribers: Vec<_> =
            self.state.lock().subscribers.iter().map(|(at, subscriber)| (at, subscriber.clone())).collect();
        let mut ended = 0;
        for (at, subscriber) in subscribers {
            // Publications that were accepted before the end are delivered before it.
            self.catch_up(&subscriber);
            // Only the caller that ended it removes it: another subscriber may get the slot right after.
            if subscriber.end(channel, reason) {
                self.remove(at);
                ended += 1;
            }
        }
        ended
    }

    fn is_behind(&self) -> bool {
        let state = self.state.lock();
        state.is_delivering && state.pending_bytes > BACKPRESSURE_BYTES
    }

    fn count(&self, tally: &Tally) {
        self.counters.deliveries.increment(tally.delivered);
        if tally.overflowed > 0 {
            self.counters.slow_consumers.increment(tally.overflowed);
        }
    }
}

/// One pass over a shard. Dropping it lets the next publication start another one.
#[must_use = "subscribers are written to only when it is run"]
pub struct Delivery {
    shard: Arc<Shard>,
    in_flight: Option<InFlight>,
}

struct InFlight {
    batch: Arc<Batch>,
    subscribers: Arc<[Arc<Subscriber>]>,
    at: usize,
}

impl Delivery {
    /// Subscribers of the shard at this time.
    pub fn subscriber_count(&self) -> usize {
        self.shard.subscriber_count()
    }

    /// Writes to at most `count` subscribers; `false` when the delivery is complete.
    pub fn run_some(&mut self, count: usize) -> bool {
        let Some(in_flight) = self.in_flight.as_mut() else {
            return self.take_pending();
        };
        let mut tally = Tally::default();
        let end = in_flight.subscribers.len().min(in_flight.at + count);
        for subscriber in &in_flight.subscribers[in_flight.at..end] {
            subscriber.deliver(&in_flight.batch, &mut tally);
        }
        in_flight.at = end;
        let done = end == in_flight.subscribers.len();
        self.shard.count(&tally);
        if done { self.take_pending() } else { true }
    }

    /// Takes the queued publications; `false` if there are none.
    fn take_pending(&mut self) -> bool {
        let mut state = self.shard.state.lock();
        self.in_flight = None;
        state.in_flight = None;
        if state.pending.is_empty() {
            state.is_delivering = false;
            return false;
        }
        let batch = Arc::new(Batch::new(std::mem::take(&mut state.pending)));
        state.pending_bytes = 0;
        state.in_flight = Some(batch.clone());
        let ShardState { subscribers, snapshot, .. } = &mut *state;
        let snapshot =
            snapshot.get_or_insert_with(|| subscribers.iter().map(|(_, subscriber)| subscriber.clone()).collect());
        self.in_flight = Some(InFlight { batch, subscribers: snapshot.clone(), at: 0 });
        drop(state);
        self.shard.space_available.notify_waiters();
        true
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.in_flight.is_some() {
            let mut state = self.shard.state.lock();
            (state.is_delivering, state.in_flight) = (false, None);
        }
    }
}

/// A shard for which too many bytes wait.
pub struct Backpressure(Arc<Shard>);

impl Backpressure {
    pub fn of(shard: &Arc<Shard>) -> Option<Self> {
        shard.is_behind().then(|| Self(shard.clone()))
    }

    /// Waits until the shard's delivery took the queued publications.
    pub async fn wait(self) {
        loop {
            let mut space = std::pin::pin!(self.0.space_available.notified());
            space.as_mut().enable();
            if !self.0.is_behind() {
                return;
            }
            space.await;
        }
    }
}
