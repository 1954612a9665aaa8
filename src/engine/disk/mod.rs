//! The durable engine of a single node: what is acknowledged is on the disk before anybody sees it.
//!
//! Channels are in memory as in the memory engine. A publication gets its place under the lock of its channel's log
//! and goes into a queue; one thread writes all that waits in one transaction, and then reveals it.

mod clock;
mod committer;
mod error;
mod file;
mod queue;
mod store;

use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, ready};
use metrics::{counter, gauge};
use tokio::sync::oneshot;

use self::clock::StoreClock;
use self::committer::{Committer, Counts, StoreState};
use self::queue::{Op, Queue};
use self::store::Store;
use super::channels::{Channels, MemoryLimits, SharedLog, check_narrower, new_epoch};
use super::log::{Log, LogState, Refused};
use crate::broker::engine::{Appended, ChannelState, Created, Joined, Start, SubscriberSlot};
use crate::broker::{ChannelLimits, ChannelRules, Counters, Engine, Hub, JoinRequest, Membership, Now};
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Payload, Position, Refusal};

pub use self::error::DiskError;
pub use self::file::Fsync;
pub use self::store::DiskConfig;

/// The backlog may take this part of the file: pages are not full, the file grows by doubling, and a transaction
/// leaves the pages of the one before it as they are.
const FILE_PER_BACKLOG: u64 = 8;

pub struct Disk {
    shared: Arc<DiskState>,
    committer: Option<JoinHandle<()>>,
}

struct DiskState {
    channels: Channels,
    queue: Queue,
    config: DiskConfig,
    clock: StoreClock,
}

impl Disk {
    /// Opens the store and reads it. Needs a tokio runtime.
    pub fn open(
        config: &DiskConfig,
        limits: MemoryLimits,
        rules: Arc<ArcSwap<ChannelRules>>,
        hub: Hub,
        counters: Arc<Counters>,
    ) -> Result<Self, DiskError> {
        let share = usize::try_from(config.max_bytes / FILE_PER_BACKLOG).unwrap_or(usize::MAX);
        let limits = MemoryLimits { max_backlog_bytes: limits.max_backlog_bytes.min(share), ..limits };
        let store = Store::open(config)?;
        let channels = Channels::new(limits, rules, hub, counters);
        let shared =
            Arc::new(DiskState { channels, queue: Queue::default(), config: config.clone(), clock: store.clock });
        let next_id = shared.load(&store)?;
        let counts = Counts {
            commits: counter!("lastmile_engine_commits_total"),
            failures: counter!("lastmile_engine_failures_total"),
            disk_bytes: gauge!("lastmile_engine_disk_bytes"),
        };
        counts.disk_bytes.set(store.file().len() as f64);
        let runtime = tokio::runtime::Handle::current();
        let committer = Committer { shared: shared.clone(), store: StoreState::Works(store), next_id, runtime, counts };
        let thread = std::thread::Builder::new().name("committer".to_owned()).spawn(move || committer.run());
        Ok(Self { shared, committer: Some(thread.map_err(|error| DiskError::io(&config.path, error))?) })
    }
}

impl DiskState {
    /// Takes the channels out of a store; gives the first id that is free.
    fn load(&self, store: &Store) -> Result<u64, DiskError> {
        let rules = self.channels.rules.load();
        let mut next_id = 1;
        let now = Now::read();
        store.read(|channel, record, backlog| {
            next_id = next_id.max(record.id + 1);
            let mut log = self.channels.empty_log(record.epoch.as_str().into(), now);
            let used = record.apply(&mut log, &store.clock);
            log.restore(used, backlog.into_iter(), rules.of(&channel), now.monotonic);
            self.queue.discard(log.take_garbage());
            self.channels.insert(channel, log);
            self.channels.evict_over_budget(|log| self.queue.discard(log.take_garbage()));
        })?;
        Ok(next_id)
    }

    /// A limit may have ended the channel: that comes behind what was given away before.
    fn refuse(&self, channel: &ChannelName, shared: &SharedLog, refused: Refused) -> Refusal {
        if let Some(reason) = refused.ended {
            // An end is never refused.
            let _ = self.queue.push(Op::End { channel: channel.clone(), log: shared.clone(), reason });
        }
        refused.refusal
    }

    fn give(
        &self,
        channel: &ChannelName,
        publisher: &str,
        payload: Payload<'_>,
        now: Now,
    ) -> Result<Appended, Refusal> {
        let rules = self.channels.rules.load();
        let rule = rules.of(channel);
        self.queue.check()?;
        self.channels.with_log(channel, now, |shared, log| {
            let before = log.given();
            let given = log.append(channel, rule, publisher, payload, true, now);
            let Some(publication) = given.map_err(|refused| self.refuse(channel, shared, refused))? else {
                return Err(ErrorCode::Internal.into());
            };
            let (answer, settled) = oneshot::channel();
            let (channel, log_of, is_kept) = (channel.clone(), shared.clone(), rule.backlog_messages > 0);
            let op = Op::Publish { channel, log: log_of, publication, is_kept, used: log.given(), now, answer };
            self.queue.push(op).inspect_err(|_| log.rollback(before))?;
            Ok(Appended::Pending(settled))
        })
    }

    async fn create(&self, channel: &ChannelName, limits: Option<ChannelLimits>, now: Now) -> Result<Created, Refusal> {
        let limits = check_narrower(limits, self.channels.rules.load().of(channel))?;
        loop {
            match self.try_create(channel, &limits, now)? {
                Attempt::Done(created, saved) => {
                    written(saved).await?;
                    return Ok(created);
                }
                Attempt::Wait(barrier) => written(barrier).await?,
            }
        }
    }

    fn try_create(&self, channel: &ChannelName, limits: &ChannelLimits, now: Now) -> Result<Attempt, Refusal> {
        self.queue.check()?;
        let rules = self.channels.rules.load();
        let rule = rules.of(channel);
        self.channels.with_log(channel, now, |shared, log| {
            if log.state == LogState::Live && log.has_expired(&log.limits(rule), now) {
                let refused = log.end(CloseReason::LifespanExpired);
                self.refuse(channel, shared, refused);
                return self.barrier();
            }
            match log.state {
                LogState::Closing => return self.barrier(),
                // Its end is shown behind what it accepted.
                LogState::Ended(_) if log.has_uncommitted() => return self.barrier(),
                LogState::Ended(_) => log.restart(new_epoch()?, now),
                LogState::Live | LogState::Removed => {}
            }
            log.last_used = now.monotonic;
            let created = match &log.declared {
                Some(declared) if declared == limits => Created::Again,
                Some(_) => return Err(ErrorCode::ChannelExists.into()),
                None => Created::New,
            };
            let (answer, saved) = oneshot::channel();
            self.queue.push(Op::Save { channel: channel.clone(), log: shared.clone(), answer })?;
            log.declared = Some(limits.clone());
            Ok(Attempt::Done(created, saved))
        })
    }

    fn barrier(&self) -> Result<Attempt, Refusal> {
        let (answer, passed) = oneshot::channel();
        self.queue.push(Op::Barrier { answer })?;
        Ok(Attempt::Wait(passed))
    }

    async fn close(&self, channel: &ChannelName) -> Result<bool, Refusal> {
        self.queue.check()?;
        let Some(log) = self.channels.find(channel) else { return Ok(false) };
        let removed = {
            let mut locked = log.lock();
            if matches!(locked.state, LogState::Closing | LogState::Removed) {
                return Ok(false);
            }
            self.remove(channel, &log, &mut locked)?
        };
        written(removed).await?;
        Ok(true)
    }

    /// Nothing more is accepted; the channel goes behind what it accepted before.
    fn remove(&self, channel: &ChannelName, shared: &SharedLog, log: &mut Log) -> Result<CommitReceipt, Refusal> {
        let (answer, removed) = oneshot::channel();
        self.queue.push(Op::Remove { channel: channel.clone(), log: shared.clone(), before: log.state, answer })?;
        log.state = LogState::Closing;
        Ok(removed)
    }

    fn sweep(&self, now: Now) {
        self.channels.for_each(|channel, shared, log, rule| {
            if log.state == LogState::Live && log.has_expired(&log.limits(rule), now) {
                let refused = log.end(CloseReason::LifespanExpired);
                self.refuse(channel, shared, refused);
            }
            log.backlog.trim(rule, now.monotonic);
            self.queue.discard(log.take_garbage());
            let is_settled = log.state != LogState::Closing && !log.has_uncommitted();
            if is_settled && self.channels.is_idle(channel, log, now) {
                // While nothing can be written it stays; nobody waits for this.
                let _ = self.remove(channel, shared, log);
            }
        });
        self.channels.evict_over_budget(|log| self.queue.discard(log.take_garbage()));
        self.queue.sweep();
    }
}

type CommitReceipt = oneshot::Receiver<Result<(), Refusal>>;

enum Attempt {
    Done(Created, CommitReceipt),
    /// It has to be tried again after this.
    Wait(CommitReceipt),
}

async fn written(answer: CommitReceipt) -> Result<(), Refusal> {
    answer.await.unwrap_or_else(|_| Err(ErrorCode::EngineUnavailable.into()))
}

/// What a transaction failed with that panicked.
fn lost() -> redb::Error {
    redb::Error::PreviousIo
}

impl Engine for Disk {
    fn append(
        &self,
        channel: &ChannelName,
        publisher: &str,
        payload: Payload<'_>,
        now: Now,
    ) -> Result<Appended, Refusal> {
        self.shared.give(channel, publisher, payload, now)
    }

    /// Only a channel that is just being removed has to be waited for.
    fn prepare_subscribe(&self, channel: &ChannelName) -> Option<BoxFuture<'static, Result<SubscriberSlot, Refusal>>> {
        let log = self.shared.channels.find(channel)?;
        if log.lock().state != LogState::Closing {
            return None;
        }
        let (answer, passed) = oneshot::channel();
        match self.shared.queue.push(Op::Barrier { answer }) {
            Ok(()) => Some(Box::pin(async { written(passed).await.map(|()| SubscriberSlot::default()) })),
            Err(refusal) => Some(Box::pin(ready(Err(refusal)))),
        }
    }

    fn subscribe(
        &self,
        channel: &ChannelName,
        newcomer: JoinRequest,
        start: Start,
        now: Now,
        announce: &mut dyn FnMut(Joined<'_>),
    ) -> Result<Membership, Refusal> {
        let DiskState { channels, .. } = &*self.shared;
        channels.with_log(channel, now, |shared, log| {
            let joined = channels.join(channel, log, newcomer, start, now, announce);
            joined.map_err(|refused| self.shared.refuse(channel, shared, refused))
        })
    }

    fn create<'a>(
        &'a self,
        channel: &'a ChannelName,
        limits: Option<ChannelLimits>,
        now: Now,
    ) -> BoxFuture<'a, Result<Created, Refusal>> {
        Box::pin(self.shared.create(channel, limits, now))
    }

    fn describe<'a>(&'a self, channel: &'a ChannelName) -> BoxFuture<'a, Result<Option<ChannelState>, Refusal>> {
        Box::pin(ready(Ok(self.shared.channels.describe(channel))))
    }

    fn publisher_of(&self, channel: &ChannelName, position: &Position) -> Option<Arc<str>> {
        self.shared.channels.find(channel)?.lock().publisher_of(position).cloned()
    }

    fn close<'a>(&'a self, channel: &'a ChannelName) -> BoxFuture<'a, Result<bool, Refusal>> {
        Box::pin(self.shared.close(channel))
    }

    fn sweep(&self, now: Now) {
        self.shared.sweep(now);
    }

    fn unavailable_reason(&self) -> Option<&'static str> {
        self.shared.queue.is_down().then_some("engine-unavailable")
    }
}

impl Drop for Disk {
    /// Writes what waits and gives the file back.
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(committer) = self.committer.take() {
            // It panics with what it does itself at worst, and then there is nothing left to do.
            let _ = committer.join();
        }
    }
}
