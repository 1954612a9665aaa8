//! One channel's order and memory: its epoch, the offsets it gave away, what it has used of its limits, its backlog.
//!
//! An engine first gives a publication its place and then reveals it; between the two it may be written to disk.
//! Subscribers see only what is revealed.

use std::sync::Arc;
use std::time::Instant;

use super::backlog::{Backlog, Entry};
use super::budget::Budget;
use super::publisher_index::PublisherIndex;
use crate::broker::engine::{Joined, Now, Start};
use crate::broker::{ChannelLimits, ChannelRule};
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Payload, Position, Publication, Refusal};

pub struct Log {
    pub epoch: Arc<str>,
    /// What was given away last.
    appended: Usage,
    /// What is revealed.
    committed: Usage,
    pub created: Now,
    /// Limits that a publisher asked for, on top of the configured ones.
    pub declared: Option<ChannelLimits>,
    pub state: LogState,
    /// It was ended, and its subscribers were not told yet.
    pub is_ending: bool,
    pub last_used: Instant,
    publishers: PublisherIndex,
    pub backlog: Backlog,
    /// Names the channel in a store; 0 if it has none there.
    pub id: u64,
    /// Rows of a store before this offset are gone.
    pub stored_from: u64,
}

/// What a channel has used of its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The newest offset, which is the number of publications.
    pub offset: u64,
    pub data_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogState {
    Live,
    /// A limit ended it. It stays so until a publisher creates or closes it, or everybody forgot it.
    Ended(CloseReason),
    /// It is being removed from a store.
    Closing,
    /// It is no longer in the engine's map; whoever holds it must look it up again.
    Removed,
}

/// A publication was refused, and whether that ended the channel.
pub struct Refused {
    pub refusal: Refusal,
    pub ended: Option<CloseReason>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, ended: None }
    }
}

impl Log {
    pub fn new(epoch: Arc<str>, budget: Arc<Budget>, now: Now) -> Self {
        Self {
            epoch,
            appended: Usage::default(),
            committed: Usage::default(),
            created: now,
            declared: None,
            state: LogState::Live,
            is_ending: false,
            last_used: now.monotonic,
            publishers: PublisherIndex::default(),
            backlog: Backlog::new(budget),
            id: 0,
            stored_from: 1,
        }
    }

    /// Begins again after an end: a new epoch, nothing used. Everything given away must have been revealed.
    pub fn restart(&mut self, epoch: Arc<str>, now: Now) {
        self.epoch = epoch;
        (self.appended, self.committed) = (Usage::default(), Usage::default());
        (self.created, self.declared, self.state) = (now, None, LogState::Live);
        self.publishers = PublisherIndex::default();
        self.backlog.skip(0);
    }

    pub fn limits(&self, rule: &ChannelRule) -> ChannelLimits {
        match &self.declared {
            Some(declared) => declared.narrowed_by(&rule.limits),
            None => rule.limits.clone(),
        }
    }

    /// The newest position that is revealed.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch.clone(), offset: self.committed.offset }
    }

    /// Who published the message at a position, if that is remembered.
    pub fn publisher_of(&self, position: &Position) -> Option<&Arc<str>> {
        let is_known = position.epoch == self.epoch && position.offset <= self.committed.offset;
        is_known.then(|| self.publishers.of(position.offset)).flatten()
    }

    pub fn given(&self) -> Usage {
        self.appended
    }

    pub fn revealed(&self) -> Usage {
        self.committed
    }

    /// Whether something was given away, or the end was, and is not revealed.
    pub fn has_uncommitted(&self) -> bool {
        self.appended != self.committed || self.is_ending
    }

    /// Takes back what was given away since `used`.
    pub fn rollback(&mut self, used: Usage) {
        self.appended = used;
    }

    /// Whether the lifespan is over at `now`.
    pub fn has_expired(&self, limits: &ChannelLimits, now: Now) -> bool {
        !limits.lifespan.is_zero() && now.monotonic.saturating_duration_since(self.created.monotonic) >= limits.lifespan
    }

    /// Refuses what the state or the lifespan does not allow.
    pub fn check_live(&mut self, limits: &ChannelLimits, now: Now) -> Result<(), Refused> {
        match self.state {
            LogState::Ended(reason) => return Err(ended(reason).into()),
            LogState::Closing => {
                return Err(Refusal::new(ErrorCode::EngineUnavailable, "the channel is being closed").into());
            }
            LogState::Live | LogState::Removed => {}
        }
        if self.has_expired(limits, now) {
            return Err(self.end(CloseReason::LifespanExpired));
        }
        self.last_used = now.monotonic;
        Ok(())
    }

    /// Gives a payload its place. The publication is made only if `is_wanted` or it is to be kept.
    pub fn append(
        &mut self,
        channel: &ChannelName,
        rule: &ChannelRule,
        publisher: &str,
        payload: Payload<'_>,
        is_wanted: bool,
        now: Now,
    ) -> Result<Option<Arc<Publication>>, Refused> {
        let limits = self.limits(rule);
        self.check_live(&limits, now)?;
        let bytes = payload.len() as u64;
        if exceeds(bytes, limits.max_message_bytes) {
            return Err(too_large(limits.max_message_bytes).into());
        }
        let used = Usage { offset: self.appended.offset + 1, data_bytes: self.appended.data_bytes + bytes };
        if exceeds(used.offset, limits.max_messages) {
            return Err(self.end(CloseReason::MessageLimit));
        }
        if exceeds(used.data_bytes, limits.max_data_bytes) {
            return Err(self.end(CloseReason::DataLimit));
        }
        self.appended = used;
        if rule.replies {
            self.publishers.record(used.offset, publisher);
        }
        let position = Position { epoch: self.epoch.clone(), offset: used.offset };
        Ok((is_wanted || rule.backlog_messages > 0).then(|| {
            let publication = Publication::new(channel, &position, now.wall, publisher, payload);
            Arc::new(publication.compressed(rule.compress))
        }))
    }

    /// Subscribers may see what was given away up to `used`; its newest publication is kept if there is one.
    pub fn commit(&mut self, used: Usage, kept: Option<Entry>, rule: &ChannelRule, now: Instant) {
        self.committed = used;
        match kept {
            Some(entry) => self.backlog.push(used.offset, entry),
            None => self.backlog.skip(used.offset),
        }
        self.backlog.trim(rule, now);
    }

    /// Begins where another keeper of the channel is, with nothing retained.
    pub fn reset_to(&mut self, epoch: Arc<str>, offset: u64, now: Now) {
        self.restart(epoch, now);
        self.skip_to(offset);
    }

    /// What is before `offset` and was not revealed never will be.
    pub fn skip_to(&mut self, offset: u64) {
        let used = Usage { offset, ..self.committed };
        (self.appended, self.committed) = (used, used);
        self.backlog.skip(offset);
    }

    /// Reveals the next publication, which got its place elsewhere.
    pub fn apply_remote(&mut self, publisher: &str, bytes: u64, kept: Option<Entry>, rule: &ChannelRule, now: Instant) {
        let used = Usage { offset: self.committed.offset + 1, data_bytes: self.committed.data_bytes + bytes };
        if rule.replies {
            self.publishers.record(used.offset, publisher);
        }
        self.appended = used;
        self.commit(used, kept, rule, now);
    }

    /// As it was in a store, with its rows in their order.
    pub fn restore(&mut self, used: Usage, rows: impl Iterator<Item = (u64, Entry)>, rule: &ChannelRule, now: Instant) {
        (self.appended, self.committed) = (used, used);
        self.stored_from = used.offset + 1;
        for (offset, entry) in rows {
            self.stored_from = self.stored_from.min(offset);
            if let Some(publisher) = entry.form.publisher().filter(|_| rule.replies) {
                self.publishers.record(offset, &publisher);
            }
            self.backlog.push(offset, entry);
            self.backlog.trim(rule, now);
        }
        if self.backlog.end() != used.offset {
            self.backlog.skip(used.offset);
        }
    }

    /// What a subscriber that wants to begin at `start` is told.
    pub fn join<R>(
        &mut self,
        channel: &ChannelName,
        start: Start,
        rule: &ChannelRule,
        now: Now,
        tell: impl FnOnce(Joined<'_>) -> R,
    ) -> R {
        self.backlog.trim(rule, now.monotonic);
        let (newest, retained_from) = (self.committed.offset, self.backlog.retained_from());
        let (wanted_from, recovered) = match start {
            Start::Live => (newest, false),
            Start::Backlog(count) => {
                let from = newest.saturating_sub(count);
                (from.max(retained_from), from >= retained_from)
            }
            Start::Since(since) if since.epoch != self.epoch || since.offset > newest => (retained_from, false),
            Start::Since(since) => (since.offset.max(retained_from), since.offset >= retained_from),
        };
        let history = self.backlog.after(channel, wanted_from);
        tell(Joined { position: self.position(), recovered, history: &history })
    }

    /// From now on nothing is accepted. What was given away before is still to be revealed.
    pub fn end(&mut self, reason: CloseReason) -> Refused {
        self.state = LogState::Ended(reason);
        self.is_ending = true;
        Refused { refusal: ended(reason), ended: Some(reason) }
    }

    /// Rows of a store that are not kept any more: the channel's id and offsets from one to before the other.
    pub fn take_garbage(&mut self) -> Option<(u64, std::ops::Range<u64>)> {
        let first = self.backlog.retained_from() + 1;
        let from = std::mem::replace(&mut self.stored_from, first);
        (self.id > 0 && from < first).then_some((self.id, from..first))
    }
}

/// Whether a value is over a limit, where 0 means no limit.
fn exceeds(value: u64, limit: u64) -> bool {
    limit != 0 && value > limit
}

pub fn too_large(limit: u64) -> Refusal {
    Refusal::new(ErrorCode::MessageTooLarge, format!("the channel takes messages of at most {limit} bytes"))
}

pub fn ended(reason: CloseReason) -> Refusal {
    let detail = format!("the channel has ended ({}); a publisher may create it anew with PUT", reason.name());
    let code = match reason {
        CloseReason::MessageLimit | CloseReason::DataLimit => ErrorCode::LimitReached,
        _ => ErrorCode::ChannelEnded,
    };
    Refusal::new(code, detail)
}
