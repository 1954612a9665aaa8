//! The engine of a single node: everything in memory, lost at restart (a new epoch says so).

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, ready};

use super::backlog::Entry;
use super::channels::{Channels, MemoryLimits, check_narrower, new_epoch};
use super::log::{Log, LogState, Refused};
use crate::broker::engine::{Accepted, Appended, ChannelState, Created, Joined, Start, SubscriberSlot};
use crate::broker::{ChannelLimits, ChannelRules, Counters, Engine, Hub, JoinRequest, Membership, Now};
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Payload, Position, Refusal};

pub struct Memory(Channels);

impl Memory {
    pub fn new(limits: MemoryLimits, rules: Arc<ArcSwap<ChannelRules>>, hub: Hub, counters: Arc<Counters>) -> Self {
        Self(Channels::new(limits, rules, hub, counters))
    }

    fn refuse(&self, channel: &ChannelName, log: &mut Log, refused: Refused) -> Refusal {
        if let Some(reason) = refused.ended {
            self.0.end(channel, log, reason);
        }
        refused.refusal
    }

    fn create_now(&self, channel: &ChannelName, limits: Option<ChannelLimits>, now: Now) -> Result<Created, Refusal> {
        let rules = self.0.rules.load();
        let rule = rules.of(channel);
        let limits = check_narrower(limits, rule)?;
        self.0.with_log(channel, now, |_, log| {
            if matches!(log.state, LogState::Ended(_)) || log.has_expired(&log.limits(rule), now) {
                log.restart(new_epoch()?, now);
            }
            log.last_used = now.monotonic;
            match &log.declared {
                Some(declared) if *declared == limits => Ok(Created::Again),
                Some(_) => Err(ErrorCode::ChannelExists.into()),
                None => {
                    log.declared = Some(limits);
                    Ok(Created::New)
                }
            }
        })
    }

    fn close_now(&self, channel: &ChannelName) -> bool {
        self.0.find(channel).is_some_and(|log| self.0.remove(channel, &log, CloseReason::ChannelClosed))
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
        let rules = self.0.rules.load();
        let rule = rules.of(channel);
        let accepted = self.0.with_log(channel, now, |_, log| {
            let is_wanted = self.0.hub.has_subscribers_or_watchers(channel);
            let publication = log
                .append(channel, rule, publisher, payload, is_wanted, now)
                .map_err(|refused| self.refuse(channel, log, refused))?;
            let kept = publication.as_ref().filter(|_| rule.backlog_messages > 0);
            let kept = kept.map(|publication| Entry { at: now.monotonic, form: publication.stored() });
            log.commit(log.given(), kept, rule, now.monotonic);
            let walks = publication.map(|publication| self.0.hub.fan_out(channel, &publication)).unwrap_or_default();
            Ok(Accepted { position: log.position(), deliveries: walks })
        })?;
        self.0.evict_over_budget(|_| {});
        self.0.counters.publications.increment(1);
        Ok(Appended::Done(accepted))
    }

    fn prepare_subscribe(&self, _channel: &ChannelName) -> Option<BoxFuture<'static, Result<SubscriberSlot, Refusal>>> {
        None
    }

    fn subscribe(
        &self,
        channel: &ChannelName,
        newcomer: JoinRequest,
        start: Start,
        now: Now,
        announce: &mut dyn FnMut(Joined<'_>),
    ) -> Result<Membership, Refusal> {
        self.0.with_log(channel, now, |_, log| {
            let joined = self.0.join(channel, log, newcomer, start, now, announce);
            joined.map_err(|refused| self.refuse(channel, log, refused))
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
        Box::pin(ready(Ok(self.0.describe(channel))))
    }

    fn publisher_of(&self, channel: &ChannelName, position: &Position) -> Option<Arc<str>> {
        self.0.find(channel)?.lock().publisher_of(position).cloned()
    }

    fn close<'a>(&'a self, channel: &'a ChannelName) -> BoxFuture<'a, Result<bool, Refusal>> {
        Box::pin(ready(Ok(self.close_now(channel))))
    }

    fn sweep(&self, now: Now) {
        self.0.for_each(|channel, _, log, rule| {
            if log.state == LogState::Live && log.has_expired(&log.limits(rule), now) {
                log.end(CloseReason::LifespanExpired);
                self.0.end(channel, log, CloseReason::LifespanExpired);
            }
            log.backlog.trim(rule, now.monotonic);
            if self.0.is_idle(channel, log, now) {
                self.0.mark_removed(log);
            }
        });
    }
}
