//! The thread that writes: one transaction for all queued operations, then their commits and acknowledgements.
//!
//! After a failure nothing of the transaction is acknowledged, and everything is refused until a new handle works. Memory
//! holds exactly the acknowledged state, so it is rewritten over the remains of the failed transaction: for the channels
//! that it touched, or for all into a new file if an fsync failed, because the old file cannot be trusted then.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge};
use tokio::runtime::Handle;

use super::error::DiskError;
use super::file::StoreFile;
use super::queue::{Batch, Op};
use super::state::DiskState;
use super::store::{Changes, Record, Store};
use crate::broker::engine::Stored;
use crate::engine::backlog::Entry;
use crate::engine::channels::SharedLog;
use crate::engine::log::{Log, LogState, Usage};
use crate::protocol::{ChannelName, CloseReason, ErrorCode};

/// Wait between two attempts to recover the store.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(1);
/// Publications of one transaction when all channels are rewritten.
const REWRITE_BATCH: usize = 1000;

pub struct Committer {
    pub state: Arc<DiskState>,
    pub store: StoreState,
    pub next_id: u64,
    pub runtime: Handle,
    pub metrics: CommitMetrics,
}

/// The store, or its file while no handle works.
pub enum StoreState {
    Works(Store),
    Failed(StoreFile),
    /// The handle was lost in a panic.
    Lost,
}

pub struct CommitMetrics {
    pub commits: Counter,
    pub failures: Counter,
    pub disk_bytes: Gauge,
}

/// Channels that a failed transaction touched.
type TouchedChannels = HashMap<ChannelName, SharedLog>;

impl Committer {
    pub fn run(mut self) {
        // Deliveries run as tasks.
        let runtime = self.runtime.clone();
        let _entered = runtime.enter();
        while let Some(batch) = self.state.queue.take() {
            let changes = self.changes(&batch);
            match self.commit(&changes) {
                Ok(()) => {
                    self.publish_committed(batch);
                    self.state.channels.evict_over_budget(|log| self.state.queue.discard(log.take_garbage()));
                }
                Err(cause) => self.fail(batch, &cause),
            }
        }
    }

    fn changes(&mut self, batch: &Batch) -> Changes {
        let StoreState::Works(store) = &self.store else { return Changes::default() };
        let mut changes = Changes { garbage: batch.garbage.clone(), ..Changes::default() };
        let lives = &self.state.channels.lives;
        let mut touched: BTreeMap<&ChannelName, (&SharedLog, Option<Usage>)> = BTreeMap::new();
        for op in &batch.ops {
            match op {
                Op::Publish { channel, log, publication, is_kept, used, now, .. } => {
                    let id = assign_id(&mut log.lock(), &mut self.next_id);
                    if *is_kept {
                        let entry = Entry { at: now.monotonic, form: publication.stored() };
                        changes.publications.push((id, used.offset, entry));
                    }
                    touched.insert(channel, (log, Some(*used)));
                }
                Op::Save { channel, log, .. } | Op::End { channel, log, .. } => {
                    assign_id(&mut log.lock(), &mut self.next_id);
                    touched.entry(channel).or_insert((log, None));
                }
                Op::Remove { channel, log, .. } => {
                    touched.remove(channel);
                    changes.removed.push((channel.clone(), log.lock().id));
                    let (bucket, removed) = lives.removed(channel);
                    *changes.lives.entry(bucket).or_insert(removed) += 1;
                }
                Op::Fact { name, fact, .. } => changes.facts.push((name.clone(), Some(fact.clone()))),
                Op::Forget { names } => changes.facts.extend(names.iter().map(|name| (name.clone(), None))),
                Op::Barrier { .. } => {}
            }
        }
        for (channel, (log, used)) in touched {
            let log = log.lock();
            changes.channels.insert(channel.clone(), Record::of(&log, used.unwrap_or(log.committed()), &store.clock));
        }
        changes
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), String> {
        let StoreState::Works(store) = &self.store else { return Err("the store has no handle".to_owned()) };
        if !changes.is_empty() {
            commit(store, changes)?;
            self.metrics.commits.increment(1);
            self.metrics.disk_bytes.set(store.file().len() as f64);
        }
        Ok(())
    }

    fn publish_committed(&self, batch: Batch) {
        let channels = &self.state.channels;
        let rules = channels.rules.load();
        for op in batch.ops {
            match op {
                Op::Publish { channel, log, publication, is_kept, used, now, answer } => {
                    let mut log = log.lock();
                    let kept = is_kept.then(|| Entry { at: now.monotonic, form: publication.stored() });
                    log.commit(used, kept, rules.of(&channel), Instant::now());
                    self.state.queue.discard(log.take_garbage());
                    let mut deliveries = channels.hub.fan_out(&channel, &publication);
                    let position = log.position();
                    drop(log);
                    channels.counters.publications.increment(1);
                    let backpressure = deliveries.backpressure.take();
                    if !deliveries.list.is_empty() {
                        // In a task, because this thread writes for all channels.
                        self.runtime.spawn(async move { drop(deliveries.run()) });
                    }
                    // The publisher may be gone.
                    let _ = answer.send(Ok(Stored { position, backpressure }));
                }
                Op::Save { answer, .. } | Op::Fact { answer, .. } | Op::Barrier { answer } => {
                    drop(answer.send(Ok(())));
                }
                Op::Forget { .. } => {}
                Op::End { channel, log, reason } => {
                    let mut log = log.lock();
                    channels.end(&channel, &mut log, reason);
                    self.state.queue.discard(log.take_garbage());
                }
                Op::Remove { channel, log, answer, .. } => {
                    channels.remove(&channel, &log, CloseReason::ChannelClosed);
                    let _ = answer.send(Ok(()));
                }
            }
        }
    }

    /// Refuses all queued operations. Returns once the store is recovered or the engine stops.
    fn fail(&mut self, batch: Batch, cause: &str) {
        tracing::error!(cause, "cannot write to store, refusing publications");
        self.metrics.failures.increment(1);
        let mut touched_channels = TouchedChannels::new();
        let refused = self.state.queue.go_down();
        batch.garbage.into_iter().for_each(|garbage| self.state.queue.discard(Some(garbage)));
        for op in batch.ops.into_iter().chain(refused) {
            self.refuse(op, &mut touched_channels);
        }
        while self.state.queue.pause(RECOVERY_INTERVAL) {
            match self.recover(&touched_channels) {
                Ok(()) => {
                    self.state.queue.come_up();
                    tracing::info!("store recovered, accepting publications");
                    return;
                }
                Err(cause) => tracing::debug!(cause, "cannot recover store, retrying"),
            }
        }
    }

    fn refuse(&self, op: Op, touched_channels: &mut TouchedChannels) {
        match op {
            Op::Publish { channel, log, answer, .. } => {
                let mut locked = log.lock();
                let committed = locked.committed();
                locked.rollback(committed);
                drop(locked);
                touched_channels.insert(channel, log);
                let _ = answer.send(Err(ErrorCode::EngineUnavailable.into()));
            }
            Op::Save { channel, log, answer } => {
                touched_channels.insert(channel, log);
                let _ = answer.send(Err(ErrorCode::EngineUnavailable.into()));
            }
            Op::Remove { channel, log, before, answer } => {
                log.lock().state = before;
                touched_channels.insert(channel, log);
                let _ = answer.send(Err(ErrorCode::EngineUnavailable.into()));
            }
            Op::End { channel, log, reason } => {
                // An end has no answer, and the appends before it are rolled back.
                let mut locked = log.lock();
                let committed = locked.committed();
                locked.rollback(committed);
                self.state.channels.end(&channel, &mut locked, reason);
                drop(locked);
                touched_channels.insert(channel, log);
            }
            Op::Fact { answer, .. } | Op::Barrier { answer } => {
                drop(answer.send(Err(ErrorCode::EngineUnavailable.into())));
            }
            // The recovery writes the facts that are left.
            Op::Forget { .. } => {}
        }
    }

    /// Opens a new handle and rewrites the acknowledged state over the remains of the failed transaction.
    fn recover(&mut self, touched_channels: &TouchedChannels) -> Result<(), String> {
        let config = self.state.config.clone();
        let clock = self.state.clock;
        match std::mem::replace(&mut self.store, StoreState::Lost) {
            StoreState::Works(store) if store.file().has_failed_fsync() => {
                // It stays open, and locked, until the new file replaces it.
                self.store = StoreState::Works(store);
            }
            StoreState::Works(store) => {
                let reopened = store.reopen();
                self.use_store(reopened)?;
            }
            StoreState::Failed(file) if file.has_failed_fsync() => self.store = StoreState::Failed(file),
            StoreState::Failed(file) => {
                let opened = Store::open_file(&config, file.clone(), Some(clock)).map_err(|error| (file, error));
                self.use_store(opened)?;
            }
            StoreState::Lost => {
                self.store = StoreState::Works(Store::open(&config).map_err(|error| error.to_string())?)
            }
        }
        if let StoreState::Works(store) = &self.store
            && !store.file().has_failed_fsync()
        {
            let mut changes = Changes { all_facts: Some(self.state.facts.lock().all()), ..Changes::default() };
            for (channel, log) in touched_channels {
                let mut log = log.lock();
                if log.state != LogState::Removed && log.id > 0 {
                    log.take_garbage();
                    changes.rewrite(channel, &log, &clock);
                }
            }
            return commit(store, &changes);
        }
        let made = Store::make(&config, clock).map_err(|error| error.to_string())?;
        self.write_all(&made)?;
        self.store = StoreState::Works(made.into_place().map_err(|error| error.to_string())?);
        Ok(())
    }

    fn use_store(&mut self, opened: Result<Store, (StoreFile, DiskError)>) -> Result<(), String> {
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
        let mut changes = Changes { all_facts: Some(self.state.facts.lock().all()), ..Changes::default() };
        let mut logs = Vec::new();
        self.state.channels.for_each(|channel, log, _, _| logs.push((channel.clone(), log.clone())));
        for (channel, log) in logs {
            let mut log = log.lock();
            if log.id > 0 {
                log.take_garbage();
                changes.rewrite(&channel, &log, &store.clock);
            }
            // Unlocked before the disk is written.
            drop(log);
            if changes.publications.len() >= REWRITE_BATCH {
                commit(store, &std::mem::take(&mut changes))?;
            }
        }
        commit(store, &changes)
    }
}

/// Commits; a panic of the library is an error like any other.
fn commit(store: &Store, changes: &Changes) -> Result<(), String> {
    let result = catch_unwind(AssertUnwindSafe(|| store.commit(changes)));
    result.unwrap_or_else(|_| Err(redb::Error::PreviousIo)).map_err(|error| error.to_string())
}

/// Returns the channel's id in the store, and assigns one the first time.
fn assign_id(log: &mut Log, next_id: &mut u64) -> u64 {
    if log.id == 0 {
        log.id = *next_id;
        *next_id += 1;
    }
    log.id
}
