//! The engine of a single node: everything in memory, lost at restart (a new epoch says so).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, ready};
use parking_lot::Mutex;

use super::log::{Log, LogState, Refused};
use crate::broker::engine::{Accepted, Appended, ChannelState, Created, Joined, Start};
use crate::broker::{ChannelLimits, ChannelRules, Counters, Engine, Hub, Membership, Newcomer, Now};
use crate::protocol::{ChannelName, CloseReason, Code, Payload, Position, Refusal};

/// Locks over the map of channels.
const SHARDS: usize = 64;

type Shard = Mutex<HashMap<ChannelName, Arc<Mutex<Log>>>>;

pub struct Memory {
    shards: Vec<Shard>,
    hasher: RandomState,
    channels: AtomicUsize,
    limits: MemoryLimits,
    rules: Arc<ArcSwap<ChannelRules>>,
    hub: Hub,
    counters: Arc<Counters>,
}

#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// Channels at once.
    pub max_channels: usize,
    /// A channel that nobody uses is forgotten after this.
    pub idle: Duration,
}

impl Memory {
    pub fn new(limits: MemoryLimits, rules: Arc<ArcSwap<ChannelRules>>, hub: Hub, counters: Arc<Counters>) -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self { shards, hasher: RandomState::new(), channels: AtomicUsize::new(0), limits, rules, hub, counters }
    }

    fn shard(&self, channel: &ChannelName) -> &Shard {
        &self.shards[self.hasher.hash_one(channel) as usize % SHARDS]
    }

    fn find(&self, channel: &ChannelName) -> Option<Arc<Mutex<Log>>> {
        self.shard(channel).lock().get(channel).cloned()
    }

    /// Runs `act` on the channel's log, which is made if there is none.
    fn with_log<R>(
        &self,
        channel: &ChannelName,
        now: Now,
        act: impl FnOnce(&mut Log) -> Result<R, Refused>,
    ) -> Result<R, Refusal> {
        loop {
            let log = self.find_or_make(channel, now)?;
            let mut log = log.lock();
            if log.state == LogState::Forgotten {
                continue;
            }
            return act(&mut log).map_err(|Refused { refusal, ended }| {
                // Under the log's lock, so that nobody who joins the channel anew is ended with it.
                if let Some(reason) = ended {
                    self.hub.end(channel, reason);
                }
                refusal
            });
        }
    }

    fn find_or_make(&self, channel: &ChannelName, now: Now) -> Result<Arc<Mutex<Log>>, Refusal> {
        let mut shard = self.shard(channel).lock();
        if let Some(log) = shard.get(channel) {
            return Ok(log.clone());
        }
        if self.channels.load(Ordering::Relaxed) >= self.limits.max_channels {
            return Err(Refusal::new(Code::LimitReached, "there are as many channels as there may be"));
        }
        let log = Arc::new(Mutex::new(Log::new(new_epoch()?, now)));
        shard.insert(channel.clone(), log.clone());
        self.channels.fetch_add(1, Ordering::Relaxed);
        self.counters.channels.increment(1);
        Ok(log)
    }

    fn count_forgotten(&self, count: usize) {
        self.channels.fetch_sub(count, Ordering::Relaxed);
        self.counters.channels.decrement(count as f64);
    }

    fn create_now(&self, channel: &ChannelName, limits: Option<ChannelLimits>, now: Now) -> Result<Created, Refusal> {
        let rules = self.rules.load();
        let rule = rules.of(channel);
        let limits = limits.unwrap_or_else(|| rule.limits.clone());
        if limits.narrowed_by(&rule.limits) != limits {
            let detail = "a channel may only narrow the limits that its configuration gives";
            return Err(Refusal::new(Code::ChannelForbidden, detail));
        }
        self.with_log(channel, now, |log| {
            if matches!(log.state, LogState::Ended(_)) || log.has_expired(&log.limits(rule), now) {
                *log = Log::new(new_epoch()?, now);
            }
            log.last_used = now.steady;
            match &log.declared {
                Some(declared) if *declared == limits => Ok(Created::Again),
                Some(_) => Err(Refusal::from(Code::ChannelExists).into()),
                None => {
                    log.declared = Some(limits);
                    Ok(Created::New)
                }
            }
        })
    }

    fn describe_now(&self, channel: &ChannelName) -> Option<ChannelState> {
        let log = self.find(channel)?;
        let log = log.lock();
        if log.state != LogState::Live {
            return None;
        }
        Some(ChannelState {
            position: log.position(),
            data_bytes: log.data_bytes(),
            subscribers: self.hub.members(channel),
            created: log.created.wall,
            limits: log.limits(self.rules.load().of(channel)),
        })
    }

    fn close_now(&self, channel: &ChannelName) -> bool {
        let Some(log) = self.shard(channel).lock().remove(channel) else {
            return false;
        };
        let mut log = log.lock();
        log.state = LogState::Forgotten;
        self.count_forgotten(1);
        self.hub.end(channel, CloseReason::ChannelClosed);
        true
    }
}

impl Engine for Memory {
    fn append(
        &self,
        channel: &ChannelName,
        publisher: &str,
        payload: Payload<'_>,
        now: Now,
    ) -> Result<Appended, Refusal> {
        let rules = self.rules.load();
        let rule = rules.of(channel);
        let accepted = self.with_log(channel, now, |log| {
            let is_wanted = self.hub.is_wanted(channel);
            let publication = log.append(channel, rule, publisher, payload, is_wanted, now)?;
            let walks = publication.map(|publication| self.hub.fan_out(channel, &publication)).unwrap_or_default();
            Ok(Accepted { position: log.position(), walks })
        })?;
        self.counters.publications.increment(1);
        Ok(Appended::Done(accepted))
    }

    fn attach(&self, _channel: &ChannelName) -> Option<BoxFuture<'static, Result<(), Refusal>>> {
        None
    }

    fn subscribe(
        &self,
        channel: &ChannelName,
        newcomer: Newcomer,
        start: Start,
        now: Now,
        announce: &mut dyn FnMut(Joined<'_>),
    ) -> Result<Membership, Refusal> {
        let rules = self.rules.load();
        let rule = rules.of(channel);
        self.with_log(channel, now, |log| {
            let limits = log.limits(rule);
            log.check_live(&limits, now)?;
            let seen = log.position().offset;
            // Nothing can be appended here, so the announcement comes before the first publication.
            let membership = self.hub.join(channel, newcomer, rule.slow_consumer, seen, limits.max_connections)?;
            log.join(start, rule, now, announce);
            Ok(membership)
        })
    }

    fn create<'a>(
        &'a self,
        channel: &'a ChannelName,
        limits: Option<ChannelLimits>,
        now: Now,
    ) -> BoxFuture<'a, Result<Created, Refusal>> {
        Box::pin(ready(self.create_now(channel, limits, now)))
    }

    fn describe<'a>(&'a self, channel: &'a ChannelName) -> BoxFuture<'a, Result<Option<ChannelState>, Refusal>> {
        Box::pin(ready(Ok(self.describe_now(channel))))
    }

    fn publisher_of(&self, channel: &ChannelName, position: &Position) -> Option<Arc<str>> {
        self.find(channel)?.lock().publisher_of(position).cloned()
    }

    fn close<'a>(&'a self, channel: &'a ChannelName) -> BoxFuture<'a, Result<bool, Refusal>> {
        Box::pin(ready(Ok(self.close_now(channel))))
    }

    fn sweep(&self, now: Now) {
        let rules = self.rules.load();
        for shard in &self.shards {
            let mut forgotten = 0;
            shard.lock().retain(|channel, log| {
                let mut log = log.lock();
                let limits = log.limits(rules.of(channel));
                if log.state == LogState::Live && log.has_expired(&limits, now) {
                    log.state = LogState::Ended(CloseReason::LifespanExpired);
                    self.hub.end(channel, CloseReason::LifespanExpired);
                }
                let idle = now.steady.duration_since(log.last_used) >= self.limits.idle;
                if idle && !self.hub.is_wanted(channel) {
                    log.state = LogState::Forgotten;
                    forgotten += 1;
                }
                log.state != LogState::Forgotten
            });
            self.count_forgotten(forgotten);
        }
    }
}

/// 40 random bits in 8 letters and digits: different for every channel and every start.
fn new_epoch() -> Result<Arc<str>, Refusal> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bits = getrandom::u64().map_err(|_| Refusal::new(Code::EngineUnavailable, "no randomness is available"))?;
    Ok((0..8).map(|at| char::from(ALPHABET[(bits >> (5 * at)) as usize % 32])).collect::<String>().into())
}
