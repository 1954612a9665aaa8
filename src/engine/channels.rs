//! The channels in memory, each with its log; shared by all engines.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::budget::Budget;
use super::log::{Log, LogState, Refused};
use crate::broker::engine::{ChannelState, Joined, Start};
use crate::broker::{ChannelLimits, ChannelRule, ChannelRules, Counters, Hub, JoinRequest, Membership, Now};
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Refusal};

/// Locks of the channel map.
const CHANNEL_SHARDS: usize = 64;

pub type SharedLog = Arc<Mutex<Log>>;

type Shard = Mutex<HashMap<ChannelName, SharedLog>>;

pub struct Channels {
    shards: Vec<Shard>,
    hasher: RandomState,
    count: AtomicUsize,
    limits: MemoryLimits,
    pub rules: Arc<ArcSwap<ChannelRules>>,
    pub hub: Hub,
    pub counters: Arc<Counters>,
    budget: Arc<Budget>,
    /// The shard that is trimmed next while the budget of backlogs is exceeded.
    evict_cursor: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    pub max_channels: usize,
    /// An unused channel is removed after this.
    pub idle: Duration,
    /// Budget of all backlogs.
    pub max_backlog_bytes: usize,
    /// Entries of the shared store, if the engine keeps it in memory.
    pub max_store_entries: usize,
}

impl Channels {
    pub fn new(limits: MemoryLimits, rules: Arc<ArcSwap<ChannelRules>>, hub: Hub, counters: Arc<Counters>) -> Self {
        Self {
            shards: (0..CHANNEL_SHARDS).map(|_| Shard::default()).collect(),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
            budget: Budget::new(limits.max_backlog_bytes, counters.backlog_bytes.clone()),
            limits,
            rules,
            hub,
            counters,
            evict_cursor: AtomicUsize::new(0),
        }
    }

    pub fn find(&self, channel: &ChannelName) -> Option<SharedLog> {
        self.shard(channel).lock().get(channel).cloned()
    }

    /// Runs `act` with the channel's log locked. Creates the channel if there is none.
    pub fn with_log<R>(
        &self,
        channel: &ChannelName,
        now: Now,
        act: impl FnOnce(&SharedLog, &mut Log) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        loop {
            let shared = self.find_or_create(channel, now)?;
            let mut log = shared.lock();
            if log.state != LogState::Removed {
                return act(&shared, &mut log);
            }
        }
    }

    /// Adds a log that was restored from a store. The limit on channels does not apply.
    pub fn insert(&self, channel: ChannelName, log: Log) {
        self.shard(&channel).lock().insert(channel, Arc::new(Mutex::new(log)));
        self.count.fetch_add(1, Ordering::Relaxed);
        self.counters.channels.increment(1);
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
        if self.count.load(Ordering::Relaxed) >= self.limits.max_channels {
            return Err(Refusal::new(ErrorCode::LimitReached, "channel limit reached (max_channels)"));
        }
        let log = Arc::new(Mutex::new(self.empty_log(new_epoch()?, now)));
        shard.insert(channel.clone(), log.clone());
        self.count.fetch_add(1, Ordering::Relaxed);
        self.counters.channels.increment(1);
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
        self.mark_removed(&mut locked);
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

    pub fn mark_removed(&self, log: &mut Log) {
        log.state = LogState::Removed;
        log.backlog.clear();
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.counters.channels.decrement(1);
    }

    /// Whether a channel without subscribers and watchers was unused for [`MemoryLimits::idle`].
    pub fn is_idle(&self, channel: &ChannelName, log: &Log, now: Now) -> bool {
        now.monotonic.saturating_duration_since(log.last_used) >= self.limits.idle
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

/// 40 random bits as 8 letters and digits, unique for every channel and every start.
pub fn new_epoch() -> Result<Arc<str>, Refusal> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bits = getrandom::u64().map_err(|_| Refusal::new(ErrorCode::EngineUnavailable, "no randomness available"))?;
    Ok((0..8).map(|at| char::from(ALPHABET[(bits >> (5 * at)) as usize % 32])).collect::<String>().into())
}
