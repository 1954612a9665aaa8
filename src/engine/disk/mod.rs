//! The durable engine for one node: publications are on disk before they are acknowledged and delivered.
//!
//! Channels are in memory as in the memory engine. An append assigns the offset with the channel's log locked, and queues
//! the publication. One thread writes all queued operations in one transaction, and then commits them to the logs.

mod clock;
mod committer;
mod error;
mod facts;
mod file;
mod ledger;
mod queue;
mod state;
mod store;

use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use futures_util::future::ready;
use metrics::{counter, gauge};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::committer::{CommitMetrics, Committer, StoreState};
use self::facts::Facts;
use self::queue::{Op, Queue};
use self::state::{DiskState, written};
use self::store::{Changes, Store};
use super::channels::{Channels, MemoryLimits};
use super::local_store::LocalStore;
use super::log::LogState;
use crate::broker::engine::{Appended, ChannelState, Created, EngineFuture, Joined, Start, SubscriberSlot};
use crate::broker::{
    ChannelLimits, ChannelRules, Counters, Engine, Holder, Hub, JoinRequest, Membership, Now, SharedStore,
};
use crate::ops::Lifecycle;
use crate::protocol::{ChannelName, Payload, Position, Refusal};

pub use self::error::DiskError;
pub use self::file::Fsync;
pub use self::store::DiskConfig;

/// Bytes of file for each byte of backlog: pages are not full, the file grows by doubling, and a transaction does not
/// overwrite the pages of the one before it.
const FILE_PER_BACKLOG: u64 = 8;

pub struct Disk {
    state: Arc<DiskState>,
    store: LocalStore,
    committer: Option<JoinHandle<()>>,
}

impl Disk {
    /// Opens the store and restores its channels. Needs a tokio runtime.
    pub fn open(
        config: &DiskConfig,
        limits: MemoryLimits,
        rules: Arc<ArcSwap<ChannelRules>>,
        hub: Hub,
        counters: Arc<Counters>,
        lifecycle: Arc<Lifecycle>,
    ) -> Result<Self, DiskError> {
        let max_backlog_bytes = usize::try_from(config.max_bytes / FILE_PER_BACKLOG).unwrap_or(usize::MAX);
        let limits = MemoryLimits { max_backlog_bytes: limits.max_backlog_bytes.min(max_backlog_bytes), ..limits };
        let store = Store::open(config)?;
        let channels = Channels::new(limits, store.lives()?, rules, hub, counters);
        let facts = Facts::new(store.read_facts()?).map_err(|error| DiskError::io(&config.path, error))?;
        let state = Arc::new(DiskState {
            channels,
            queue: Queue::default(),
            config: config.clone(),
            clock: store.clock,
            facts: Mutex::new(facts),
        });
        if let Some((name, fact)) = state.facts.lock().first_fact() {
            // Before anything is bound to it.
            let changes = Changes { facts: vec![(name, Some(fact))], ..Changes::default() };
            store.commit(&changes).map_err(|error| DiskError::database(&config.path, error))?;
        }
        let next_id = state.load(&store)?;
        let metrics = CommitMetrics {
            commits: counter!("lastmile_engine_commits_total"),
            failures: counter!("lastmile_engine_failures_total"),
            disk_bytes: gauge!("lastmile_engine_disk_bytes"),
        };
        metrics.disk_bytes.set(store.file().len() as f64);
        let runtime = tokio::runtime::Handle::current();
        let committer = Committer { state: state.clone(), store: StoreState::Works(store), next_id, runtime, metrics };
        let thread = std::thread::Builder::new().name("committer".to_owned()).spawn(move || {
            let queue = committer.state.clone();
            if lifecycle.supervise_thread("committer", || committer.run()) {
                queue.queue.abandon();
            }
        });
        Ok(Self {
            store: LocalStore::with_ledger(limits.max_store_entries, state.clone()),
            state,
            committer: Some(thread.map_err(|error| DiskError::io(&config.path, error))?),
        })
    }
}

impl Engine for Disk {
    fn append(
        &self,
        channel: &ChannelName,
        publisher: &str,
        payload: Payload<'_>,
        now: Now,
    ) -> Result<Appended, Refusal> {
        self.state.append(channel, publisher, payload, now)
    }

    /// Waits only while the channel is being removed.
    fn prepare_subscribe(
        &self,
        channel: &ChannelName,
        _holder: Holder,
    ) -> Option<EngineFuture<'static, SubscriberSlot>> {
        let log = self.state.channels.find(channel)?;
        if log.lock().state != LogState::Closing {
            return None;
        }
        let (answer, receipt) = oneshot::channel();
        match self.state.queue.push(Op::Barrier { answer }) {
            Ok(()) => Some(Box::pin(async { written(receipt).await.map(|()| SubscriberSlot::default()) })),
            Err(refusal) => Some(Box::pin(ready(Err(refusal)))),
        }
    }

    fn subscribe(
        &self,
        channel: &ChannelName,
        request: JoinRequest,
        start: Start,
        now: Now,
        on_joined: &mut dyn FnMut(Joined<'_>),
    ) -> Result<Membership, Refusal> {
        let refuse = |shared: &_, _: &mut _, refused| self.state.refuse(channel, shared, refused);
        self.state.channels.subscribe(channel, request, start, now, on_joined, refuse)
    }

    fn create<'a>(
        &'a self,
        channel: &'a ChannelName,
        limits: Option<ChannelLimits>,
        now: Now,
    ) -> EngineFuture<'a, Created> {
        Box::pin(self.state.create(channel, limits, now))
    }

    fn describe<'a>(&'a self, channel: &'a ChannelName) -> EngineFuture<'a, Option<ChannelState>> {
        Box::pin(ready(Ok(self.state.channels.describe(channel))))
    }

    fn publisher_of(&self, channel: &ChannelName, position: &Position) -> Option<Arc<str>> {
        self.state.channels.find(channel)?.lock().publisher_of(position).cloned()
    }

    fn close<'a>(&'a self, channel: &'a ChannelName) -> EngineFuture<'a, bool> {
        Box::pin(self.state.close(channel))
    }

    fn sweep(&self, now: Now) {
        self.store.sweep(now.monotonic);
        self.state.sweep(now);
    }

    fn shared_store(&self) -> &dyn SharedStore {
        &self.store
    }

    fn unavailable_reason(&self) -> Option<&'static str> {
        self.state.queue.is_down().then_some("engine-unavailable")
    }
}

impl Drop for Disk {
    /// Writes all queued operations and closes the file.
    fn drop(&mut self) {
        self.state.queue.close();
        if let Some(committer) = self.committer.take() {
            // An error is a panic of the committer, which leaves nothing to do here.
            let _ = committer.join();
        }
    }
}
