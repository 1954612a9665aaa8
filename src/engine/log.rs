//! One channel's order and memory: its epoch, its last offset, what it has used of its limits, its backlog.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::broker::engine::{Joined, Now, Start};
use crate::broker::{ChannelLimits, ChannelRule};
use crate::protocol::{ChannelName, CloseReason, Code, Payload, Position, Publication, Refusal};

pub struct Log {
    epoch: Arc<str>,
    offset: u64,
    data_bytes: u64,
    pub created: Now,
    /// Limits that a publisher asked for, on top of the configured ones.
    pub declared: Option<ChannelLimits>,
    pub state: LogState,
    pub last_used: Instant,
    backlog: VecDeque<(Instant, Arc<Publication>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogState {
    Live,
    /// A limit ended it. It stays so until a publisher creates or closes it, or everybody forgot it.
    Ended(CloseReason),
    /// It is no longer in the engine's map; whoever holds it must look it up again.
    Forgotten,
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
    pub fn new(epoch: Arc<str>, now: Now) -> Self {
        Self {
            epoch,
            offset: 0,
            data_bytes: 0,
            created: now,
            declared: None,
            state: LogState::Live,
            last_used: now.steady,
            backlog: VecDeque::new(),
        }
    }

    pub fn limits(&self, rule: &ChannelRule) -> ChannelLimits {
        match &self.declared {
            Some(declared) => declared.narrowed_by(&rule.limits),
            None => rule.limits.clone(),
        }
    }

    pub fn position(&self) -> Position {
        Position { epoch: self.epoch.clone(), offset: self.offset }
    }

    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Whether the lifespan is over at `now`.
    pub fn has_expired(&self, limits: &ChannelLimits, now: Now) -> bool {
        !limits.lifespan.is_zero() && now.steady.duration_since(self.created.steady) >= limits.lifespan
    }

    /// Refuses what the state or the lifespan does not allow.
    pub fn check_live(&mut self, limits: &ChannelLimits, now: Now) -> Result<(), Refused> {
        if let LogState::Ended(reason) = self.state {
            return Err(ended(reason).into());
        }
        if self.has_expired(limits, now) {
            return Err(self.end(CloseReason::LifespanExpired));
        }
        self.last_used = now.steady;
        Ok(())
    }

    /// Gives a payload its place. The publication is made only if somebody listens or it is kept.
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
            let detail = format!("the channel takes messages of at most {} bytes", limits.max_message_bytes);
            return Err(Refusal::new(Code::MessageTooLarge, detail).into());
        }
        if exceeds(self.offset + 1, limits.max_messages) {
            return Err(self.end(CloseReason::MessageLimit));
        }
        if exceeds(self.data_bytes + bytes, limits.max_data_bytes) {
            return Err(self.end(CloseReason::DataLimit));
        }
        self.offset += 1;
        self.data_bytes += bytes;
        let keeps = rule.backlog_messages > 0;
        if !is_wanted && !keeps {
            return Ok(None);
        }
        let publication = Publication::new(channel, &self.position(), now.wall, publisher, payload);
        let publication = Arc::new(publication.compressed(rule.compress));
        if keeps {
            self.backlog.push_back((now.steady, publication.clone()));
            self.trim(rule, now);
        }
        Ok(Some(publication))
    }

    /// What a subscriber that wants to begin at `start` is told.
    pub fn join<R>(&mut self, start: Start, rule: &ChannelRule, now: Now, tell: impl FnOnce(Joined<'_>) -> R) -> R {
        self.trim(rule, now);
        // Everything behind this offset is retained.
        let retained_from = self.offset - self.backlog.len() as u64;
        let (wanted_from, recovered) = match start {
            Start::Live => (self.offset, false),
            Start::Backlog(count) => {
                let from = self.offset.saturating_sub(count);
                (from.max(retained_from), from >= retained_from)
            }
            Start::Since(since) if since.epoch != self.epoch || since.offset > self.offset => (retained_from, false),
            Start::Since(since) => (since.offset.max(retained_from), since.offset >= retained_from),
        };
        let skipped = usize::try_from(wanted_from - retained_from).unwrap_or(usize::MAX);
        let history: Vec<_> = self.backlog.iter().skip(skipped).map(|(_, publication)| publication.clone()).collect();
        tell(Joined { position: self.position(), recovered, history: &history })
    }

    fn end(&mut self, reason: CloseReason) -> Refused {
        self.state = LogState::Ended(reason);
        self.backlog = VecDeque::new();
        Refused { refusal: ended(reason), ended: Some(reason) }
    }

    fn trim(&mut self, rule: &ChannelRule, now: Now) {
        let too_old = |at: Instant| rule.backlog_age > Duration::ZERO && now.steady - at >= rule.backlog_age;
        while let Some((at, _)) = self.backlog.front()
            && (self.backlog.len() as u64 > rule.backlog_messages || too_old(*at))
        {
            self.backlog.pop_front();
        }
    }
}

/// Whether a value is over a limit, where 0 means no limit.
fn exceeds(value: u64, limit: u64) -> bool {
    limit != 0 && value > limit
}

fn ended(reason: CloseReason) -> Refusal {
    let detail = format!("the channel has ended ({}); a publisher may create it anew with PUT", reason.name());
    let code = match reason {
        CloseReason::MessageLimit | CloseReason::DataLimit => Code::LimitReached,
        _ => Code::ChannelEnded,
    };
    Refusal::new(code, detail)
}
