//! The channels in memory, each with its log; shared by all engines.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::budget::Budget;
use super::lives::{Lives, epoch_text};
use super::log::{Log, LogState, Refused};
use super::waiting::{Holders, RETRY_AFTER, WaitingLimits, WaitingNames};
use crate::broker::engine::{ChannelState, Joined, Start};
use crate::broker::{ChannelLimits, ChannelRule, ChannelRules, Counters, Holder, Hub, JoinRequest, Membership, Now};
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Refusal};

/// Locks of the channel map.
const CHANNEL_SHARDS: usize = 64;

pub type SharedLog = Arc<Mutex<Log>>;

type Shard = Mutex<HashMap<ChannelName, SharedLog>>;

pub struct Channels {
    shards: Vec<Shard>,
    hasher: RandomState,
    /// Waiting names are not in it.
    count: AtomicUsize,
    waiting: WaitingNames,
    pub lives: Lives,
    limits: MemoryLimits,
    pub rules: Arc<ArcSwap<ChannelRules>>,
    pub hub: Hub,
    pub counters: Arc<Counters>,
    budget: Arc<Budget>,
    /// The shard that is trimmed next while the budget of backlogs is exceeded.
    evict_cursor: AtomicUsize,
}

/// A subscription to a waiting name. The name is removed with its last one.
pub struct Wait {
    channels: Arc<Channels>,
    channel: ChannelName,
    log: SharedLog,
    holder: Holder,
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.channels.end_wait(&self.channel, &self.log, self.holder);
    }
}

#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    pub max_channels: usize,
    pub waiting: WaitingLimits,
    /// An unused channel is removed after this.
    pub idle: Duration,
    /// Budget of all backlogs.
    pub max_backlog_bytes: usize,
    /// Entries of the shared store, if the engine keeps it in memory.
    pub max_store_entries: usize,
}

impl Channels {
    pub fn new(
        limits: MemoryLimits,
        lives: Lives,
        rules: Arc<ArcSwap<ChannelRules>>,
        hub: Hub,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        counters.max_channels.set(limits.max_channels as f64);
        counters.max_waiting_names.set(limits.waiting.max_names as f64);
        Arc::new(Self {
            shards: (0..CHANNEL_SHARDS).map(|_| Shard::default()).collect(),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
            waiting: WaitingNames::new(limits.waiting, counters.waiting_names.clone()),
            lives,
            budget: Budget::new(limits.max_backlog_bytes, counters.backlog_bytes.clone()),
            limits,
            rules,
            hub,
            counters,
            evict_cursor: AtomicUsize::new(0),
        })
    }

    pub fn find(&self, channel: &ChannelName) -> Option<SharedLog> {
        self.shard(channel).lock().get(channel).cloned()
    }

    /// Runs `act` of a publisher with the channel's log locked. Creates the channel if there is none.
    pub fn with_log<R>(
        &self,
        channel: &ChannelName,
        now: Now,
        act: impl FnOnce(&SharedLog, &mut Log) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        loop {
            let shared = self.find_or_create(channel, now)?;
            let mut log = shared.lock();
            if log.state == LogState::Removed {
                continue;
            }
            if log.is_waiting() {
                self.check_room()?;
                self.make_channel(&mut log, now);
            }
            return act(&shared, &mut log);
        }
    }

    /// The log of a channel or waiting name, for a subscriber. A waiting name stays until its last [`Wait`] is dropped. The log
    /// of a channel may be removed meanwhile.
    pub fn hold(
        self: &Arc<Self>,
        channel: &ChannelName,
        holder: Holder,
        now: Now,
    ) -> Result<(SharedLog, Option<Wait>), Refusal> {
        let mut shard = self.shard(channel).lock();
        if let Some(log) = shard.get(channel).cloned() {
            drop(shard);
            let wait = self.hold_log(channel, &log, holder)?;
            return Ok((log, wait));
        }
        let mut holders = Box::<Holders>::default();
        self.waiting.add(&mut holders, holder)?;
        let mut log = self.empty_log(self.lives.epoch(channel), now);
        log.waiting = Some(holders);
        let log = Arc::new(Mutex::new(log));
        shard.insert(channel.clone(), log.clone());
        let wait = Wait { channels: self.clone(), channel: channel.clone(), log: log.clone(), holder };
        Ok((log, Some(wait)))
    }

    /// `None` for a channel.
    pub fn hold_log(
        self: &Arc<Self>,
        channel: &ChannelName,
        log: &SharedLog,
        holder: Holder,
    ) -> Result<Option<Wait>, Refusal> {
        let mut locked = log.lock();
        let Some(holders) = &mut locked.waiting else { return Ok(None) };
        self.waiting.add(holders, holder)?;
        Ok(Some(Wait { channels: self.clone(), channel: channel.clone(), log: log.clone(), holder }))
    }

    /// Joins a subscriber to a channel or a waiting name. `refuse` is called with the log locked.
    pub fn subscribe(
        self: &Arc<Self>,
        channel: &ChannelName,
        request: JoinRequest,
        start: Start,
        now: Now,
        on_joined: &mut dyn FnMut(Joined<'_>),
        refuse: impl FnOnce(&SharedLog, &mut Log, Refused) -> Refusal,
    ) -> Result<Membership, Refusal> {
        loop {
            // Dropped after the lock is released, because the end of a wait locks the log.
            let (shared, wait) = self.hold(channel, request.holder, now)?;
            let mut log = shared.lock();
            if log.state == LogState::Removed {
                continue;
            }
            return match self.join(channel, &mut log, request, start, now, on_joined) {
                Ok(membership) => Ok(membership.with_guard(wait)),
                Err(refused) => Err(refuse(&shared, &mut log, refused)),
            };
        }
    }

    /// A publisher uses a waiting name: its log is a channel from now on. See [`Channels::check_room`].
    pub fn make_channel(&self, log: &mut Log, now: Now) {
        if let Some(holders) = log.waiting.take() {
            self.waiting.remove_name(&holders);
            self.add_channel();
            log.created = now;
        }
    }

    /// Removes a waiting name if the subscription was its last one.
    fn end_wait(&self, channel: &ChannelName, log: &SharedLog, holder: Holder) {
        let mut shard = self.shard(channel).lock();
        let mut log = log.lock();
        let Some(holders) = &mut log.waiting else { return };
        if self.waiting.remove(holders, holder) {
            shard.remove(channel);
            self.mark_removed(channel, &mut log);
        }
    }

    /// Ends the subscriptions to a waiting name after the lifespan that the channel would have.
    pub fn end_long_wait(&self, channel: &ChannelName, log: &mut Log, rule: &ChannelRule, now: Now) {
        if log.is_waiting() && log.is_past(rule.limits.lifespan, now) {
            self.mark_removed(channel, log);
            self.hub.end(channel, CloseReason::LifespanExpired);
        }
    }

    /// Refuses one more channel if there are too many.
    pub fn check_room(&self) -> Result<(), Refusal> {
        if self.count.load(Ordering::Relaxed) < self.limits.max_channels {
            return Ok(());
        }
        Err(Refusal::new(ErrorCode::LimitReached, "channel limit reached (max_channels)").retry_after(RETRY_AFTER))
    }

    fn add_channel(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.counters.channels.increment(1);
    }

    /// Adds a log that was restored from a store. The limit on channels does not apply.
    pub fn insert(&self, channel: ChannelName, log: Log) {
        self.shard(&channel).lock().insert(channel, Arc::new(Mutex::new(log)));
        self.add_channel();
    }

    /// A log that is not in the map yet.
    pub fn empty_log(&self, epoch: Arc<str>, now: Now) -> Log {
        Log::new(epoch, self.budget.clone(), now)
    }

    fn find_or_create(&self, channel: &ChannelName, now: Now) -> Result<SharedLog, Refusal> {
        let mut shard = self.shard(channel).lock();
        if let Some(log) = shard.get(channel) {
            return Ok(log.clone());
        }
        self.check_room()?;
        let log = Arc::new(Mutex::new(self.empty_log(self.lives.epoch(channel), now)));
        shard.insert(channel.clone(), log.clone());
        self.add_channel();
        Ok(log)
    }

    /// Joins a subscriber, with `log` locked. No publication can be committed meanwhile, so `on_joined` runs before the first
    /// delivery.
    pub fn join(
        &self,
        channel: &ChannelName,
        log: &mut Log,
        request: JoinRequest,
        start: Start,
        now: Now,
        on_joined: &mut dyn FnMut(Joined<'_>),
    ) -> Result<Membership, Refused> {
        let rules = self.rules.load();
        let rule = rules.of(channel);
        let limits = log.limits(rule);
        log.check_live(&limits, now)?;
        let seen = log.position().offset;
        let membership = self.hub.join(channel, request, rule.slow_consumer, seen, limits.max_connections)?;
        log.join(channel, start, rule, now, on_joined);
        Ok(membership)
    }

    pub fn describe(&self, channel: &ChannelName) -> Option<ChannelState> {
        let log = self.find(channel)?;
        let log = log.lock();
        if log.state != LogState::Live {
            return None;
        }
        Some(ChannelState {
            position: log.position(),
            data_bytes: log.committed().data_bytes,
            subscribers: self.hub.subscriber_count(channel),
            is_waiting: log.is_waiting(),
            created: log.created.wall,
            limits: log.limits(self.rules.load().of(channel)),
        })
    }

    /// Atomically removes a channel and ends its subscriptions. `false` if `log` was removed before.
    pub fn remove(&self, channel: &ChannelName, log: &SharedLog, reason: CloseReason) -> bool {
        let mut shard = self.shard(channel).lock();
        let mut locked = log.lock();
        if locked.state == LogState::Removed {
            return false;
        }
        shard.remove(channel);
        self.mark_removed(channel, &mut locked);
        self.hub.end(channel, reason);
        true
    }

    /// Ends a channel that stays in the map: drops its backlog and ends its subscriptions. To be called with the log locked,
    /// so that subscriptions to a restarted channel are not ended with it.
    pub fn end(&self, channel: &ChannelName, log: &mut Log, reason: CloseReason) {
        log.backlog.clear();
        log.is_ending = false;
        self.hub.end(channel, reason);
    }

    /// Visits every channel, then removes those that `visit` left in [`LogState::Removed`].
    pub fn for_each(&self, mut visit: impl FnMut(&ChannelName, &SharedLog, &mut Log, &ChannelRule)) {
        let rules = self.rules.load();
        for shard in &self.shards {
            shard.lock().retain(|channel, shared| {
                let mut log = shared.lock();
                visit(channel, shared, &mut log, rules.of(channel));
                log.state != LogState::Removed
            });
        }
    }

    pub fn mark_removed(&self, channel: &ChannelName, log: &mut Log) {
        log.state = LogState::Removed;
        log.backlog.clear();
        if let Some(holders) = log.waiting.take() {
            return self.waiting.remove_name(&holders);
        }
        self.lives.end(channel);
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.counters.channels.decrement(1);
    }

    /// Whether a channel without subscribers and watchers was unused for [`MemoryLimits::idle`].
    pub fn is_idle(&self, channel: &ChannelName, log: &Log, now: Now) -> bool {
        !log.is_waiting()
            && now.monotonic.saturating_duration_since(log.last_used) >= self.limits.idle
            && !self.hub.has_subscribers_or_watchers(channel)
    }

    /// While the budget is exceeded, trims backlogs to the fair share, and calls `trimmed` for each log. To be called after an
    /// append, with no lock held. Skips a log that is locked: its user trims it.
    pub fn evict_over_budget(&self, mut trimmed: impl FnMut(&mut Log)) {
        for _ in 0..CHANNEL_SHARDS {
            if !self.budget.is_over() {
                return;
            }
            let at = self.evict_cursor.fetch_add(1, Ordering::Relaxed) % CHANNEL_SHARDS;
            for log in self.shards[at].lock().values() {
                if let Some(mut log) = log.try_lock() {
                    log.backlog.trim_to_fair_share();
                    trimmed(&mut log);
                }
            }
        }
    }

    fn shard(&self, channel: &ChannelName) -> &Shard {
        &self.shards[self.hasher.hash_one(channel) as usize % CHANNEL_SHARDS]
    }
}

/// Refuses limits that are wider than configured.
pub fn check_narrower(limits: Option<ChannelLimits>, rule: &ChannelRule) -> Result<ChannelLimits, Refusal> {
    let limits = limits.unwrap_or_else(|| rule.limits.clone());
    if limits.narrowed_by(&rule.limits) == limits {
        return Ok(limits);
    }
    Err(Refusal::new(ErrorCode::ChannelForbidden, "limits are wider than configured for the channel"))
}

/// 40 random bits, unique for every channel and every start.
pub fn new_epoch() -> Result<Arc<str>, Refusal> {
    let bits = getrandom::u64().map_err(|_| Refusal::new(ErrorCode::EngineUnavailable, "no randomness available"))?;
    Ok(epoch_text(bits))
}
