//! The channels of the disk engine, and the operations that it queues for the committer.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::clock::StoreClock;
use super::error::DiskError;
use super::facts::Facts;
use super::queue::{Op, Queue};
use super::store::{DiskConfig, Store};
use crate::broker::engine::{Appended, Created};
use crate::broker::{ChannelLimits, Now};
use crate::engine::channels::{Channels, SharedLog, check_narrower, new_epoch};
use crate::engine::log::{Log, LogState, Refused};
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Payload, Refusal};

pub struct DiskState {
    pub channels: Arc<Channels>,
    pub queue: Queue,
    pub config: DiskConfig,
    pub clock: StoreClock,
    pub facts: Mutex<Facts>,
}

impl DiskState {
    /// Restores the channels of a store. Returns the first free channel id.
    pub fn load(&self, store: &Store) -> Result<u64, DiskError> {
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

    /// If a limit ended the channel, queues its end after the appends before it.
    pub fn refuse(&self, channel: &ChannelName, shared: &SharedLog, refused: Refused) -> Refusal {
        if let Some(reason) = refused.ended {
            // The queue never refuses an end.
            let _ = self.queue.push(Op::End { channel: channel.clone(), log: shared.clone(), reason });
        }
        refused.refusal
    }

    pub fn append(
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
            let before = log.appended();
            let appended = log.append(channel, rule, publisher, payload, true, now);
            let Some(publication) = appended.map_err(|refused| self.refuse(channel, shared, refused))? else {
                return Err(ErrorCode::Internal.into());
            };
            let (answer, stored) = oneshot::channel();
            let (channel, log_of, is_kept) = (channel.clone(), shared.clone(), rule.backlog_messages > 0);
            let op = Op::Publish { channel, log: log_of, publication, is_kept, used: log.appended(), now, answer };
            self.queue.push(op).inspect_err(|_| log.rollback(before))?;
            Ok(Appended::Pending(stored))
        })
    }

    pub async fn create(
        &self,
        channel: &ChannelName,
        limits: Option<ChannelLimits>,
        now: Now,
    ) -> Result<Created, Refusal> {
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
                // Its end is committed after its appends.
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
        let (answer, receipt) = oneshot::channel();
        self.queue.push(Op::Barrier { answer })?;
        Ok(Attempt::Wait(receipt))
    }

    pub async fn close(&self, channel: &ChannelName) -> Result<bool, Refusal> {
        self.queue.check()?;
        let Some(log) = self.channels.find(channel) else { return Ok(false) };
        let removed = {
            let mut locked = log.lock();
            if locked.is_waiting() {
                drop(locked);
                return Ok(self.channels.remove(channel, &log, CloseReason::ChannelClosed));
            }
            if matches!(locked.state, LogState::Closing | LogState::Removed) {
                return Ok(false);
            }
            self.remove(channel, &log, &mut locked)?
        };
        written(removed).await?;
        Ok(true)
    }

    /// Refuses further appends, and removes the channel after those that it accepted.
    fn remove(&self, channel: &ChannelName, shared: &SharedLog, log: &mut Log) -> Result<CommitReceipt, Refusal> {
        let (answer, removed) = oneshot::channel();
        self.queue.push(Op::Remove { channel: channel.clone(), log: shared.clone(), before: log.state, answer })?;
        log.state = LogState::Closing;
        Ok(removed)
    }

    pub fn sweep(&self, now: Now) {
        self.channels.for_each(|channel, shared, log, rule| {
            self.channels.end_long_wait(channel, log, rule, now);
            if log.state == LogState::Live && log.has_expired(&log.limits(rule), now) {
                let refused = log.end(CloseReason::LifespanExpired);
                self.refuse(channel, shared, refused);
            }
            log.backlog.trim(rule, now.monotonic);
            self.queue.discard(log.take_garbage());
            let is_committed = log.state != LogState::Closing && !log.has_uncommitted();
            if is_committed && self.channels.is_idle(channel, log, now) {
                // A queue that refuses keeps the channel until a later sweep.
                let _ = self.remove(channel, shared, log);
            }
        });
        self.channels.evict_over_budget(|log| self.queue.discard(log.take_garbage()));
        let expired = self.facts.lock().take_expired(now.unix());
        if !expired.is_empty() {
            // A queue that refuses leaves the rows, which the next start deletes.
            let _ = self.queue.push(Op::Forget { names: expired });
        }
        self.queue.sweep();
    }
}

/// Receives the result once the operation is written.
type CommitReceipt = oneshot::Receiver<Result<(), Refusal>>;

enum Attempt {
    Done(Created, CommitReceipt),
    /// To be tried again after this.
    Wait(CommitReceipt),
}

pub async fn written(answer: CommitReceipt) -> Result<(), Refusal> {
    answer.await.unwrap_or_else(|_| Err(ErrorCode::EngineUnavailable.into()))
}
