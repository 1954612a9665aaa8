//! The one thread that writes: it takes all that waits, writes it in one transaction, and only then shows it to
//! subscribers and answers publishers.
//!
//! After a failure nothing of the transaction is acknowledged and everything is refused until a new handle works.
//! What is in memory is what was acknowledged and seen, so it is written anew over whatever the failed transaction
//! left: for the channels it touched or, if an fsync failed and the file cannot be trusted, for all into a new file.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge};
use tokio::runtime::Handle;

use super::error::DiskError;
use super::file::StoreFile;
use super::queue::{Batch, Op};
use super::store::{Changes, Record, Store};
use super::{DiskState, lost};
use crate::broker::engine::Stored;
use crate::engine::backlog::Entry;
use crate::engine::channels::SharedLog;
use crate::engine::log::{Log, LogState, Usage};
use crate::protocol::{ChannelName, CloseReason, ErrorCode};

/// Between two attempts to write again.
const RETRY: Duration = Duration::from_secs(1);
/// Publications of one transaction when everything is written anew.
const REWRITE_STEP: usize = 1000;

pub struct Committer {
    pub shared: Arc<DiskState>,
    pub store: StoreState,
    pub next_id: u64,
    pub runtime: Handle,
    pub counts: Counts,
}

/// The store, or the file that it was while no handle on it works.
pub enum StoreState {
    Works(Store),
    Failed(StoreFile),
    /// A panic took it.
    Lost,
}

pub struct Counts {
    pub commits: Counter,
    pub failures: Counter,
    pub disk_bytes: Gauge,
}

/// Channels that a failed transaction touched.
type TouchedChannels = HashMap<ChannelName, SharedLog>;

impl Committer {
    pub fn run(mut self) {
        // Walks are run as tasks.
        let runtime = self.runtime.clone();
        let _entered = runtime.enter();
        while let Some(batch) = self.shared.queue.take() {
            let changes = self.changes(&batch);
            match self.commit(&changes) {
                Ok(()) => {
                    self.publish_committed(batch);
                    self.shared.channels.evict_over_budget(|log| self.shared.queue.discard(log.take_garbage()));
                }
                Err(cause) => self.fail(batch, &cause),
            }
        }
    }

    fn changes(&mut self, batch: &Batch) -> Changes {
        let StoreState::Works(store) = &self.store else { return Changes::default() };
        let mut changes = Changes { garbage: batch.garbage.clone(), ..Changes::default() };
        let mut touched: BTreeMap<&ChannelName, (&SharedLog, Option<Usage>)> = BTreeMap::new();
        for op in &batch.ops {
            match op {
                Op::Publish { channel, log, publication, is_kept, used, now, .. } => {
                    let id = identify(&mut log.lock(), &mut self.next_id);
                    if *is_kept {
                        let entry = Entry { at: now.monotonic, form: publication.stored() };
                        changes.publications.push((id, used.offset, entry));
                    }
                    touched.insert(channel, (log, Some(*used)));
                }
                Op::Save { channel, log, .. } | Op::End { channel, log, .. } => {
                    identify(&mut log.lock(), &mut self.next_id);
                    touched.entry(channel).or_insert((log, None));
                }
                Op::Remove { channel, log, .. } => {
                    touched.remove(channel);
                    changes.removed.push((channel.clone(), log.lock().id));
                }
                Op::Barrier { .. } => {}
            }
        }
        for (channel, (log, used)) in touched {
            let log = log.lock();
            changes.channels.insert(channel.clone(), Record::of(&log, used.unwrap_or(log.revealed()), &store.clock));
        }
        changes
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), String> {
        let StoreState::Works(store) = &self.store else { return Err("there is no handle".to_owned()) };
        if !changes.is_empty() {
            commit(store, changes)?;
            self.counts.commits.increment(1);
            self.counts.disk_bytes.set(store.file().len() as f64);
        }
        Ok(())
    }

    fn publish_committed(&self, batch: Batch) {
        let channels = &self.shared.channels;
        let rules = channels.rules.load();
        for op in batch.ops {
            match op {
                Op::Publish { channel, log, publication, is_kept, used, now, answer } => {
                    let mut log = log.lock();
                    let kept = is_kept.then(|| Entry { at: now.monotonic, form: publication.stored() });
                    log.commit(used, kept, rules.of(&channel), Instant::now());
                    self.shared.queue.discard(log.take_garbage());
                    let mut walks = channels.hub.fan_out(&channel, &publication);
                    let position = log.position();
                    drop(log);
                    channels.counters.publications.increment(1);
                    let congestion = walks.backpressure.take();
                    if !walks.list.is_empty() {
                        // Not here: this thread writes for all channels.
                        self.runtime.spawn(async move { drop(walks.run()) });
                    }
                    // Whoever does not wait any more is not told.
                    let _ = answer.send(Ok(Stored { position, backpressure: congestion }));
                }
                Op::Save { answer, .. } | Op::Barrier { answer } => drop(answer.send(Ok(()))),
                Op::End { channel, log, reason } => {
                    let mut log = log.lock();
                    channels.end(&channel, &mut log, reason);
                    self.shared.queue.discard(log.take_garbage());
                }
                Op::Remove { channel, log, answer, .. } => {
                    channels.remove(&channel, &log, CloseReason::ChannelClosed);
                    let _ = answer.send(Ok(()));
                }
            }
        }
    }

    /// Refuses everything that waits, and comes back when writing works again or the engine stops.
    fn fail(&mut self, batch: Batch, cause: &str) {
        tracing::error!(cause, "the store cannot be written; publications are refused until it can");
        self.counts.failures.increment(1);
        let mut suspects = TouchedChannels::new();
        let refused = self.shared.queue.go_down();
        batch.garbage.into_iter().for_each(|garbage| self.shared.queue.discard(Some(garbage)));
        for op in batch.ops.into_iter().chain(refused) {
            self.refuse(op, &mut suspects);
        }
        while self.shared.queue.pause(RETRY) {
            match self.recover(&suspects) {
                Ok(()) => {
                    self.shared.queue.come_up();
                    tracing::info!("the store can be written again");
                    return;
                }
                Err(cause) => tracing::debug!(cause, "the store still cannot be written"),
            }
        }
    }

    fn refuse(&self, op: Op, suspects: &mut TouchedChannels) {
        match op {
            Op::Publish { channel, log, answer, .. } => {
                let mut locked = log.lock();
                let revealed = locked.revealed();
                locked.rollback(revealed);
                drop(locked);
                suspects.insert(channel, log);
                let _ = answer.send(Err(ErrorCode::EngineUnavailable.into()));
            }
            Op::Save { channel, log, answer } => {
                suspects.insert(channel, log);
                let _ = answer.send(Err(ErrorCode::EngineUnavailable.into()));
            }
            Op::Remove { channel, log, before, answer } => {
                log.lock().state = before;
                suspects.insert(channel, log);
                let _ = answer.send(Err(ErrorCode::EngineUnavailable.into()));
            }
            Op::End { channel, log, reason } => {
                // Nobody waits for it, and nothing of the channel comes before it any more.
                let mut locked = log.lock();
                let revealed = locked.revealed();
                locked.rollback(revealed);
                self.shared.channels.end(&channel, &mut locked, reason);
                drop(locked);
                suspects.insert(channel, log);
            }
            Op::Barrier { answer } => drop(answer.send(Err(ErrorCode::EngineUnavailable.into()))),
        }
    }

    /// A new handle, and what is in memory written over what the failed transaction left.
    fn recover(&mut self, suspects: &TouchedChannels) -> Result<(), String> {
        let config = self.shared.config.clone();
        let clock = self.shared.clock;
        match std::mem::replace(&mut self.store, StoreState::Lost) {
            StoreState::Works(store) if store.file().has_failed_fsync() => {
                // It stays open, and locked, until the new file has taken its place.
                self.store = StoreState::Works(store);
            }
            StoreState::Works(store) => {
                let reopened = store.reopen();
                self.take(reopened)?;
            }
            StoreState::Failed(file) if file.has_failed_fsync() => self.store = StoreState::Failed(file),
            StoreState::Failed(file) => {
                let opened = Store::open_file(&config, file.clone(), Some(clock)).map_err(|error| (file, error));
                self.take(opened)?;
            }
            StoreState::Lost => {
                self.store = StoreState::Works(Store::open(&config).map_err(|error| error.to_string())?)
            }
        }
        if let StoreState::Works(store) = &self.store
            && !store.file().has_failed_fsync()
        {
            let mut changes = Changes::default();
            for (channel, log) in suspects {
                let mut log = log.lock();
                if log.state != LogState::Removed && log.id > 0 {
                    log.take_garbage();
                    changes.whole(channel, &log, &clock);
                }
            }
            return commit(store, &changes);
        }
        let made = Store::make(&config, clock).map_err(|error| error.to_string())?;
        self.write_all(&made)?;
        self.store = StoreState::Works(made.into_place().map_err(|error| error.to_string())?);
        Ok(())
    }

    fn take(&mut self, opened: Result<Store, (StoreFile, DiskError)>) -> Result<(), String> {
        match opened {
            Ok(store) => {
                self.store = StoreState::Works(store);
                Ok(())
            }
            Err((file, error)) => {
                self.store = StoreState::Failed(file);
                Err(error.to_string())
            }
        }
    }

    fn write_all(&mut self, store: &Store) -> Result<(), String> {
        let mut changes = Changes::default();
        let mut logs = Vec::new();
        self.shared.channels.for_each(|channel, log, _, _| logs.push((channel.clone(), log.clone())));
        for (channel, log) in logs {
            let mut log = log.lock();
            if log.id > 0 {
                log.take_garbage();
                changes.whole(&channel, &log, &store.clock);
            }
            // No lock is held over the disk.
            drop(log);
            if changes.publications.len() >= REWRITE_STEP {
                commit(store, &std::mem::take(&mut changes))?;
            }
        }
        commit(store, &changes)
    }
}

/// A panic of the library is a failure like any other.
fn commit(store: &Store, changes: &Changes) -> Result<(), String> {
    let result = catch_unwind(AssertUnwindSafe(|| store.commit(changes)));
    result.unwrap_or_else(|_| Err(lost())).map_err(|error| error.to_string())
}

/// Gives a channel its id in the store, once.
fn identify(log: &mut Log, next_id: &mut u64) -> u64 {
    if log.id == 0 {
        log.id = *next_id;
        *next_id += 1;
    }
    log.id
}
