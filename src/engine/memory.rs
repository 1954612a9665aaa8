//! The engine for one node in memory. A restart loses everything, which the new epoch reveals.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::ready;

use super::backlog::Entry;
use super::channels::{Channels, MemoryLimits, check_narrower, new_epoch};
use super::disk::Disk;
use super::lives::Lives;
use super::local_store::LocalStore;
use super::log::{Log, LogState, Refused};
use crate::broker::engine::{Accepted, Appended, ChannelState, Created, EngineFuture, Joined, Start};
use crate::broker::{ChannelLimits, ChannelRules, Counters, Engine, Hub, JoinRequest, Membership, Now, SharedStore};
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Payload, Position, Refusal};

pub struct Memory {
    channels: Arc<Channels>,
    store: LocalStore,
    /// A store without channels, for what a restart must not forget.
    ledger: Option<Disk>,
}

impl Memory {
    pub fn new(limits: MemoryLimits, rules: Arc<ArcSwap<ChannelRules>>, hub: Hub, counters: Arc<Counters>) -> Self {
        Self {
            store: LocalStore::new(limits.max_store_entries),
            channels: Channels::new(limits, Lives::new(), rules, hub, counters),
            ledger: None,
        }
    }

    /// Revocations, used signatures and pushed policy outlive the process. Publications do not.
    pub fn with_ledger(self, ledger: Option<Disk>) -> Self {
        Self { ledger, ..self }
    }

    fn refuse(&self, channel: &ChannelName, log: &mut Log, refused: Refused) -> Refusal {
        if let Some(reason) = refused.ended {
            self.channels.end(channel, log, reason);
        }
        refused.refusal
    }

    fn create_now(&self, channel: &ChannelName, limits: Option<ChannelLimits>, now: Now) -> Result<Created, Refusal> {
        let rules = self.channels.rules.load();
        let rule = rules.of(channel);
        let limits = check_narrower(limits, rule)?;
        self.channels.with_log(channel, now, |_, log| {
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
        self.channels.find(channel).is_some_and(|log| self.channels.remove(channel, &log, CloseReason::ChannelClosed))
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
        let rules = self.channels.rules.load();
        let rule = rules.of(channel);
        let accepted = self.channels.with_log(channel, now, |_, log| {
            let has_receivers = self.channels.hub.has_subscribers_or_watchers(channel);
            let publication = log
                .append(channel, rule, publisher, payload, has_receivers, now)
                .map_err(|refused| self.refuse(channel, log, refused))?;
            let kept = publication.as_ref().filter(|_| rule.backlog_messages > 0);
            let kept = kept.map(|publication| Entry { at: now.monotonic, form: publication.stored() });
            log.commit(log.appended(), kept, rule, now.monotonic);
            let deliveries =
                publication.map(|publication| self.channels.hub.fan_out(channel, &publication)).unwrap_or_default();
            Ok(Accepted { position: log.position(), deliveries })
        })?;
        self.channels.evict_over_budget(|_| {});
        self.channels.counters.publications.increment(1);
        Ok(Appended::Done(accepted))
    }

    fn subscribe(
        &self,
        channel: &ChannelName,
        request: JoinRequest,
        start: Start,
        now: Now,
        on_joined: &mut dyn FnMut(Joined<'_>),
    ) -> Result<Membership, Refusal> {
        let refuse = |_: &_, log: &mut Log, refused| self.refuse(channel, log, refused);
        self.channels.subscribe(channel, request, start, now, on_joined, refuse)
    }

    fn create<'a>(
        &'a self,
        channel: &'a ChannelName,
        limits: Option<ChannelLimits>,
        now: Now,
    ) -> EngineFuture<'a, Created> {
        Box::pin(ready(self.create_now(channel, limits, now)))
    }

    fn describe<'a>(&'a self, channel: &'a ChannelName) -> EngineFuture<'a, Option<ChannelState>> {
        Box::pin(ready(Ok(self.channels.describe(channel))))
    }

    fn publisher_of(&self, channel: &ChannelName, position: &Position) -> Option<Arc<str>> {
        self.channels.find(channel)?.lock().publisher_of(position).cloned()
    }

    fn close<'a>(&'a self, channel: &'a ChannelName) -> EngineFuture<'a, bool> {
        Box::pin(ready(Ok(self.close_now(channel))))
    }

    fn sweep(&self, now: Now) {
        self.store.sweep(now.monotonic);
        if let Some(ledger) = &self.ledger {
            ledger.sweep(now);
        }
        self.channels.for_each(|channel, _, log, rule| {
            self.channels.end_long_wait(channel, log, rule, now);
            if log.state == LogState::Live && log.has_expired(&log.limits(rule), now) {
                log.end(CloseReason::LifespanExpired);
                self.channels.end(channel, log, CloseReason::LifespanExpired);
            }
            log.backlog.trim(rule, now.monotonic);
            if self.channels.is_idle(channel, log, now) {
                self.channels.mark_removed(channel, log);
            }
        });
    }

    fn shared_store(&self) -> &dyn SharedStore {
        self.ledger.as_ref().map_or(&self.store, |ledger| ledger.shared_store())
    }
}
