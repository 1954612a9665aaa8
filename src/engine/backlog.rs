//! The backlog of one channel: its newest publications without a gap, bounded by count, age, bytes and a shared budget.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::Budget;
use crate::broker::ChannelRule;
use crate::protocol::ChannelName;
use crate::protocol::publication::{Publication, StoredPublication};

pub struct Backlog {
    entries: VecDeque<Entry>,
    /// The newest offset, also if its publication is not kept.
    end: u64,
    bytes: usize,
    budget: Arc<Budget>,
}

/// A publication and when it was accepted.
#[derive(Clone)]
pub struct Entry {
    pub at: Instant,
    pub form: StoredPublication,
}

impl Backlog {
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { entries: VecDeque::new(), end: 0, bytes: 0, budget }
    }

    /// The newest offset.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The offset before the oldest retained publication.
    pub fn retained_from(&self) -> u64 {
        self.end - self.entries.len() as u64
    }

    pub fn entries(&self) -> impl Iterator<Item = (u64, &Entry)> {
        (self.retained_from() + 1..).zip(&self.entries)
    }

    /// The publications after an offset, which is not before [`Backlog::retained_from`].
    pub fn after(&self, channel: &ChannelName, offset: u64) -> Vec<Arc<Publication>> {
        let skipped = usize::try_from(offset - self.retained_from()).unwrap_or(usize::MAX);
        let entries = self.entries().skip(skipped);
        entries.map(|(offset, entry)| Arc::new(Publication::from_stored(channel, offset, &entry.form))).collect()
    }

    /// Adds the publication at `offset`. A gap before it drops all earlier ones.
    pub fn push(&mut self, offset: u64, entry: Entry) {
        if offset != self.end + 1 {
            self.clear();
        }
        self.end = offset;
        self.count(self.bytes + cost(&entry));
        self.entries.push_back(entry);
    }

    /// Moves on to `offset`, whose publication is not kept. Drops all earlier ones, because they would have a gap after them.
    pub fn skip(&mut self, offset: u64) {
        self.clear();
        self.end = offset;
    }

    pub fn clear(&mut self) {
        self.entries = VecDeque::new();
        self.count(0);
    }

    /// Drops publications beyond the limits of the rule and, while the budget is exceeded, beyond the fair share.
    pub fn trim(&mut self, rule: &ChannelRule, now: Instant) {
        let is_old =
            |at: Instant| rule.backlog_age > Duration::ZERO && now.saturating_duration_since(at) >= rule.backlog_age;
        while let Some(oldest) = self.entries.front()
            && (self.entries.len() as u64 > rule.backlog_messages
                || (rule.backlog_bytes > 0 && self.bytes as u64 > rule.backlog_bytes)
                || is_old(oldest.at))
        {
            self.drop_oldest();
        }
        self.trim_to_fair_share();
        if self.entries.capacity() > 16 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    /// While the budget is exceeded, drops publications beyond the fair share.
    pub fn trim_to_fair_share(&mut self) {
        while self.budget.is_over() && self.bytes > self.budget.fair_share() {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.entries.pop_front() {
            self.count(self.bytes - cost(&oldest));
        }
    }

    fn count(&mut self, bytes: usize) {
        self.budget.change(self.bytes, bytes);
        self.bytes = bytes;
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.count(0);
    }
}

/// Bytes of memory: the frame, the allocator's overhead, its reference count, and up to two entries of the queue.
fn cost(entry: &Entry) -> usize {
    const ALLOCATION: usize = 48;
    let frame = entry.form.frame().len();
    frame + frame / 8 + ALLOCATION + 2 * size_of::<Entry>()
}
