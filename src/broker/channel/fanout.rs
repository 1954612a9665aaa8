//! Fan-out of one channel on this node: its members in slices, and the walks over them.
//!
//! A publication is put before every slice; a walk then writes everything that waits before a slice to each
//! of its members in one go, so publications that arrive faster than sockets can be walked share a system
//! call, and one that comes alone waits for nothing. At most one walk is on a slice at a time, which keeps
//! the order of each member; different slices are walked on different cores.

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

/// A slice takes this many members before the next one is begun.
const SHARD_CAPACITY: usize = 256;

/// Bytes that may wait before a slice until publishers are asked to wait.
const BACKPRESSURE_BYTES: usize = 128 * 1024;

/// One subscription of one connection.
pub struct Subscriber {
    connection: Arc<Connection>,
    form: Form,
    slow_consumer: SlowConsumer,
    /// Names the channel among those of the connection, for [`SlowConsumer::Latest`].
    tag: u64,
    /// The newest offset it was sent. This and `active` change only under the connection's lock.
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

    /// Nothing of the channel is sent any more once this returns. `false` if it was so before.
    pub fn deactivate(&self) -> bool {
        let _outgoing = self.connection.lock();
        let was_active = self.active.swap(false, Ordering::Relaxed);
        if was_active {
            self.connection.unsubscribed();
        }
        was_active
    }

    /// Tells the subscriber that its subscription ended. A connection whose last channel ends is closed with the
    /// same reason, so that its client knows whether to come back. `false` if it had ended before.
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

    /// Sends something that is no publication, if our own protocol is spoken.
    fn send(&self, frame: &Bytes) -> Option<Sent> {
        let mut outgoing = self.connection.lock();
        (self.form.is_native() && self.is_active()).then(|| outgoing.send(frame, None))
    }

    /// Sends what of `batch` it has not been sent.
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
            Sent::Overflowed => tally.slow += 1,
            Sent::Gone => {}
        };
        match self.slow_consumer {
            SlowConsumer::Disconnect if fresh.len() == batch.publications.len() => {
                send(batch.joined(self.form), None, fresh.len());
            }
            SlowConsumer::Disconnect => fresh.iter().for_each(|one| send(one.frame(self.form), None, 1)),
            SlowConsumer::Latest => fresh.iter().for_each(|one| send(one.frame(self.form), Some(self.tag), 1)),
        }
    }
}

/// Publications that go out together.
struct Batch {
    publications: Vec<Arc<Publication>>,
    /// All frames of a form in one buffer.
    joined: [OnceLock<Bytes>; Form::COUNT],
}

impl Batch {
    fn new(publications: Vec<Arc<Publication>>) -> Self {
        Self { publications, joined: Default::default() }
    }

    /// Those behind an offset; offsets rise.
    fn after(&self, seen: u64) -> &[Arc<Publication>] {
        match self.publications.first() {
            Some(first) if first.offset > seen => &self.publications,
            _ => &self.publications[self.publications.partition_point(|one| one.offset <= seen)..],
        }
    }

    fn joined(&self, form: Form) -> &Bytes {
        if let [only] = &self.publications[..] {
            return only.frame(form);
        }
        self.joined[form as usize].get_or_init(|| {
            let length = self.publications.iter().map(|one| one.frame(form).len()).sum();
            let mut joined = BytesMut::with_capacity(length);
            self.publications.iter().for_each(|one| joined.extend_from_slice(one.frame(form)));
            joined.freeze()
        })
    }
}

#[derive(Default)]
struct Tally {
    delivered: u64,
    slow: u64,
}

/// A part of a channel's members, walked by one task at a time.
pub struct Shard {
    state: Mutex<ShardState>,
    /// Tells publishers that the walk took what waited.
    space_available: Notify,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct ShardState {
    subscribers: Slab<Arc<Subscriber>>,
    /// The members as an array, made anew by the first walk after a change.
    snapshot: Option<Arc<[Arc<Subscriber>]>>,
    pending: Vec<Arc<Publication>>,
    pending_bytes: usize,
    is_delivering: bool,
    /// What the walk is at.
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

    pub fn add(&self, member: Arc<Subscriber>) -> usize {
        let mut state = self.state.lock();
        state.snapshot = None;
        state.subscribers.insert(member)
    }

    pub fn remove(&self, at: usize) {
        let mut state = self.state.lock();
        state.snapshot = None;
        state.subscribers.try_remove(at);
    }

    /// Puts a publication before the slice. Returns a walk if none is under way: it has to be run.
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

    /// Sends `member` what it has not been sent, before the walk comes to it.
    pub fn catch_up(&self, member: &Subscriber) {
        let (in_flight, pending) = {
            let state = self.state.lock();
            (state.in_flight.clone(), Batch::new(state.pending.clone()))
        };
        let mut tally = Tally::default();
        in_flight.iter().for_each(|batch| member.deliver(batch, &mut tally));
        member.deliver(&pending, &mut tally);
        self.count(&tally);
    }

    /// Sends every member something that is no publication, behind those that were accepted before.
    pub fn send_to_all(&self, frame: &Bytes) {
        let members: Vec<_> = self.state.lock().subscribers.iter().map(|(_, member)| member.clone()).collect();
        let mut tally = Tally::default();
        for member in members {
            self.catch_up(&member);
            tally.slow += u64::from(matches!(member.send(frame), Some(Sent::Overflowed)));
        }
        self.count(&tally);
    }

    /// Ends the subscription of every member and removes it. Returns how many there were.
    pub fn end(&self, channel: &ChannelName, reason: CloseReason) -> u64 {
        let members: Vec<_> = self.state.lock().subscribers.iter().map(|(at, member)| (at, member.clone())).collect();
        let mut ended = 0;
        for (at, member) in members {
            // Publications that were accepted before the end are delivered before it.
            self.catch_up(&member);
            // Whoever ends a membership removes it: its place may be another's right after.
            if member.end(channel, reason) {
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
        if tally.slow > 0 {
            self.counters.slow_consumers.increment(tally.slow);
        }
    }
}

/// A walk over one slice. Dropping it leaves the slice free for the next one.
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
    /// Members that it leads to, about.
    pub fn subscriber_count(&self) -> usize {
        self.shard.subscriber_count()
    }

    /// Writes to at most `count` members; `false` when nothing is left to do.
    pub fn run_some(&mut self, count: usize) -> bool {
        let Some(load) = self.in_flight.as_mut() else {
            return self.take_pending();
        };
        let mut tally = Tally::default();
        let end = load.subscribers.len().min(load.at + count);
        for member in &load.subscribers[load.at..end] {
            member.deliver(&load.batch, &mut tally);
        }
        load.at = end;
        let done = end == load.subscribers.len();
        self.shard.count(&tally);
        if done { self.take_pending() } else { true }
    }

    /// Takes what waits before the slice; `false` if nothing does.
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
        let ShardState { subscribers: members, snapshot, .. } = &mut *state;
        let members = snapshot.get_or_insert_with(|| members.iter().map(|(_, member)| member.clone()).collect());
        self.in_flight = Some(InFlight { batch, subscribers: members.clone(), at: 0 });
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

/// A slice before which too much waits.
pub struct Backpressure(Arc<Shard>);

impl Backpressure {
    pub fn of(slice: &Arc<Shard>) -> Option<Self> {
        slice.is_behind().then(|| Self(slice.clone()))
    }

    /// Waits until the slice's walk took what waited.
    pub async fn wait(self) {
        loop {
            let mut relief = std::pin::pin!(self.0.space_available.notified());
            relief.as_mut().enable();
            if !self.0.is_behind() {
                return;
            }
            relief.await;
        }
    }
}
