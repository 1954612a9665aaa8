//! The log of one channel: its epoch, its offsets, its usage of limits, and its backlog.
//!
//! An engine first assigns the offset (append), then makes the publication visible (commit). Between the two it may write
//! the publication to disk. Subscribers receive committed publications only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backlog::{Backlog, Entry};
use super::budget::Budget;
use super::publisher_index::PublisherIndex;
use super::waiting::Holders;
use crate::broker::engine::{Joined, Now, Start};
use crate::broker::{ChannelLimits, ChannelRule};
use crate::protocol::{ChannelName, CloseReason, ErrorCode, Payload, Position, Publication, Refusal};

pub struct Log {
    pub epoch: Arc<str>,
    /// Usage including publications that are not committed.
    appended: Usage,
    /// Usage of the committed publications.
    committed: Usage,
    pub created: Now,
    /// Limits that a publisher declared, beside the configured ones.
    pub declared: Option<ChannelLimits>,
    pub state: LogState,
    /// Only subscribers want the name, so there is no channel.
    pub waiting: Option<Box<Holders>>,
    /// The channel has ended and its subscriptions have not.
    pub is_ending: bool,
    pub last_used: Instant,
    publishers: PublisherIndex,
    pub backlog: Backlog,
    /// Id of the channel in a store; 0 before it is stored.
    pub id: u64,
    /// Rows of the store before this offset are deleted.
    pub stored_from: u64,
}

/// Usage of a channel's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The newest offset, which is the number of publications.
    pub offset: u64,
    pub data_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogState {
    Live,
    /// A limit ended the channel. Until a publisher creates or closes it, or it is removed as idle.
    Ended(CloseReason),
    /// The channel is being removed from a store.
    Closing,
    /// The log is no longer in the engine's map; its holders must look the channel up again.
    Removed,
}

/// A refusal, with the reason if it ended the channel.
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
            waiting: None,
            is_ending: false,
            last_used: now.monotonic,
            publishers: PublisherIndex::default(),
            backlog: Backlog::new(budget),
            id: 0,
            stored_from: 1,
        }
    }

    /// Starts a new epoch after an end, with no usage. Every append must be committed.
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

    /// Whether no publisher has made the channel.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// The newest committed position.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch.clone(), offset: self.committed.offset }
    }

    /// The publisher of the message at a position, if it is still known.
    pub fn publisher_of(&self, position: &Position) -> Option<&Arc<str>> {
        let is_known = position.epoch == self.epoch && position.offset <= self.committed.offset;
        is_known.then(|| self.publishers.of(position.offset)).flatten()
    }

    pub fn appended(&self) -> Usage {
        self.appended
    }

    pub fn committed(&self) -> Usage {
        self.committed
    }

    /// Whether an append, or the end of the channel, is not committed.
    pub fn has_uncommitted(&self) -> bool {
        self.appended != self.committed || self.is_ending
    }

    /// Undoes the appends since `used`.
    pub fn rollback(&mut self, used: Usage) {
        self.appended = used;
    }

    /// Whether `lifespan` has passed at `now`; zero means no end.
    pub fn is_past(&self, lifespan: Duration, now: Now) -> bool {
        !lifespan.is_zero() && now.monotonic.saturating_duration_since(self.created.monotonic) >= lifespan
    }

    /// Whether the lifespan of a channel has passed at `now`.
    pub fn has_expired(&self, limits: &ChannelLimits, now: Now) -> bool {
        !self.is_waiting() && self.is_past(limits.lifespan, now)
    }

    /// Refuses if the channel has ended, is being closed, or outlived its lifespan.
    pub fn check_live(&mut self, limits: &ChannelLimits, now: Now) -> Result<(), Refused> {
        match self.state {
            LogState::Ended(reason) => return Err(ended(reason).into()),
            LogState::Closing => {
                return Err(Refusal::new(ErrorCode::EngineUnavailable, "channel is being closed").into());
            }
            LogState::Live | LogState::Removed => {}
        }
        if self.has_expired(limits, now) {
            return Err(self.end(CloseReason::LifespanExpired));
        }
        self.last_used = now.monotonic;
        Ok(())
    }

    /// Assigns the next offset to a payload. Makes the publication only if `has_receivers` or the backlog keeps it.
    pub fn append(
        &mut self,
        channel: &ChannelName,
        rule: &ChannelRule,
        publisher: &str,
        payload: Payload<'_>,
        has_receivers: bool,
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
        Ok((has_receivers || rule.backlog_messages > 0).then(|| {
            let publication = Publication::new(channel, &position, now.wall, publisher, payload);
            Arc::new(publication.compressed(rule.compress))
        }))
    }

    /// Makes the appends up to `used` visible. `kept` is the backlog entry of the newest one, if it is kept.
    pub fn commit(&mut self, used: Usage, kept: Option<Entry>, rule: &ChannelRule, now: Instant) {
        self.committed = used;
        match kept {
            Some(entry) => self.backlog.push(used.offset, entry),
            None => self.backlog.skip(used.offset),
        }
        self.backlog.trim(rule, now);
    }

    /// Takes over the epoch and offset that another node or store has, with an empty backlog.
    pub fn reset_to(&mut self, epoch: Arc<str>, offset: u64, now: Now) {
        self.restart(epoch, now);
        self.skip_to(offset);
    }

    /// Continues after `offset`. Publications up to it that are not committed are lost.
    pub fn skip_to(&mut self, offset: u64) {
        let used = Usage { offset, ..self.committed };
        (self.appended, self.committed) = (used, used);
        self.backlog.skip(offset);
    }

    /// Commits the next publication, whose offset Redis assigned.
    pub fn apply_remote(&mut self, publisher: &str, bytes: u64, kept: Option<Entry>, rule: &ChannelRule, now: Instant) {
        let used = Usage { offset: self.committed.offset + 1, data_bytes: self.committed.data_bytes + bytes };
        if rule.replies {
            self.publishers.record(used.offset, publisher);
        }
        self.appended = used;
        self.commit(used, kept, rule, now);
    }

    /// Restores the log from a store; `rows` are in order.
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

    /// Calls `on_joined` with the position and history for a subscriber that begins at `start`.
    pub fn join<R>(
        &mut self,
        channel: &ChannelName,
        start: Start,
        rule: &ChannelRule,
        now: Now,
        on_joined: impl FnOnce(Joined<'_>) -> R,
    ) -> R {
        self.backlog.trim(rule, now.monotonic);
        let (newest, retained_from) = (self.committed.offset, self.backlog.retained_from());
        let (from, recovered) = match start {
            Start::Live => (newest, false),
            Start::Backlog(count) => {
                let from = newest.saturating_sub(count);
                (from.max(retained_from), from >= retained_from)
            }
            Start::Since(since) if since.epoch != self.epoch || since.offset > newest => (retained_from, false),
            Start::Since(since) => (since.offset.max(retained_from), since.offset >= retained_from),
        };
        let history = self.backlog.after(channel, from);
        on_joined(Joined { position: self.position(), recovered, history: &history })
    }

    /// Ends the channel: refuses further appends. Earlier ones are still to be committed.
    pub fn end(&mut self, reason: CloseReason) -> Refused {
        self.state = LogState::Ended(reason);
        self.is_ending = true;
        Refused { refusal: ended(reason), ended: Some(reason) }
    }

    /// Rows of the store that the backlog has dropped: the channel's id and a range of offsets.
    pub fn take_garbage(&mut self) -> Option<(u64, std::ops::Range<u64>)> {
        let first = self.backlog.retained_from() + 1;
        let from = std::mem::replace(&mut self.stored_from, first);
        (self.id > 0 && from < first).then_some((self.id, from..first))
    }
}

/// Whether a value exceeds a limit; 0 means no limit.
fn exceeds(value: u64, limit: u64) -> bool {
    limit != 0 && value > limit
}

pub fn too_large(limit: u64) -> Refusal {
    Refusal::new(ErrorCode::MessageTooLarge, format!("message is larger than {limit} bytes (max_message_bytes)"))
}

pub fn ended(reason: CloseReason) -> Refusal {
    let detail = format!("channel has ended ({}); a publisher may create it again with PUT", reason.name());
    let code = match reason {
        CloseReason::MessageLimit | CloseReason::DataLimit => ErrorCode::LimitReached,
        _ => ErrorCode::ChannelEnded,
    };
    Refusal::new(code, detail)
}
