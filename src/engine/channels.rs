//! The channels of this node, each with its log: what the engines that keep channels in memory share.

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

/// Locks over the map of channels.
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
    /// The shard that gives next when all backlogs together are too large.
    evict_cursor: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// Channels at once.
    pub max_channels: usize,
    /// A channel that nobody uses is forgotten after this.
    pub idle: Duration,
    /// Memory of all backlogs together.
    pub max_backlog_bytes: usize,
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

    /// Runs `act` under the lock of the channel's log, which is made if there is none.
    pub fn with_log<R>(
        &self,
        channel: &ChannelName,
        now: Now,
        act: impl FnOnce(&SharedLog, &mut Log) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        loop {
            let shared = self.find_or_make(channel, now)?;
            let mut log = shared.lock();
            if log.state != LogState::Removed {
                return act(&shared, &mut log);
            }
        }
    }

    /// A log as it was kept elsewhere, whatever the limit on channels says.
    pub fn insert(&self, channel: ChannelName, log: Log) {
        self.shard(&channel).lock().insert(channel, Arc::new(Mutex::new(log)));
        self.count.fetch_add(1, Ordering::Relaxed);
        self.counters.channels.increment(1);
    }

    /// A log that is in no map yet.
    pub fn empty_log(&self, epoch: Arc<str>, now: Now) -> Log {
        Log::new(epoch, self.budget.clone(), now)
    }

    fn find_or_make(&self, channel: &ChannelName, now: Now) -> Result<SharedLog, Refusal> {
        let mut shard = self.shard(channel).lock();
        if let Some(log) = shard.get(channel) {
            return Ok(log.clone());
        }
        if self.count.load(Ordering::Relaxed) >= self.limits.max_channels {
            return Err(Refusal::new(ErrorCode::LimitReached, "there are as many channels as there may be"));
        }
        let log = Arc::new(Mutex::new(self.empty_log(new_epoch()?, now)));
        shard.insert(channel.clone(), log.clone());
        self.count.fetch_add(1, Ordering::Relaxed);
        self.counters.channels.increment(1);
        Ok(log)
    }

    /// Makes a member of `newcomer`, under the lock of `log`. Nothing can be revealed meanwhile, so the announcement
    /// comes before the first publication.
    pub fn join(
        &self,
        channel: &ChannelName,
        log: &mut Log,
        newcomer: JoinRequest,
        start: Start,
        now: Now,
        announce: &mut dyn FnMut(Joined<'_>),
    ) -> Result<Membership, Refused> {
        let rules = self.rules.load();
        let rule = rules.of(channel);
        let limits = log.limits(rule);
        log.check_live(&limits, now)?;
        let seen = log.position().offset;
        let membership = self.hub.join(channel, newcomer, rule.slow_consumer, seen, limits.max_connections)?;
        log.join(channel, start, rule, now, announce);
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
            data_bytes: log.revealed().data_bytes,
            subscribers: self.hub.subscriber_count(channel),
            created: log.created.wall,
            limits: log.limits(self.rules.load().of(channel)),
        })
    }

    /// Forgets a channel and ends its subscriptions, in one step. `false` if `log` is not the channel's any more.
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

    /// The end of a channel that stays in the map: its backlog goes, its subscriptions end. Under the log's lock, so
    /// that nobody who joins the channel anew is ended with it.
    pub fn end(&self, channel: &ChannelName, log: &mut Log, reason: CloseReason) {
        log.backlog.clear();
        log.is_ending = false;
        self.hub.end(channel, reason);
    }

    /// Looks at every channel. Those that `visit` makes [`LogState::Forgotten`] are gone when it returns.
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

    /// Whether nobody has used it for as long as a channel is remembered.
    pub fn is_idle(&self, channel: &ChannelName, log: &Log, now: Now) -> bool {
        now.monotonic.saturating_duration_since(log.last_used) >= self.limits.idle
            && !self.hub.has_subscribers_or_watchers(channel)
    }

    /// While all backlogs together are too large, channels with more than a fair share give what is over it. To be
    /// called after an append, with no lock held. A channel that is just being used gives on its own.
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
    Err(Refusal::new(ErrorCode::ChannelForbidden, "a channel may only narrow the limits that its configuration gives"))
}

/// 40 random bits in 8 letters and digits: different for every channel and every start.
pub fn new_epoch() -> Result<Arc<str>, Refusal> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bits =
        getrandom::u64().map_err(|_| Refusal::new(ErrorCode::EngineUnavailable, "no randomness is available"))?;
    Ok((0..8).map(|at| char::from(ALPHABET[(bits >> (5 * at)) as usize % 32])).collect::<String>().into())
}
