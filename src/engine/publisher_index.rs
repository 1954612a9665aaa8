//! The publisher of each publication of one channel, for replies. Most channels have one publisher, or a few in turn.

use std::collections::VecDeque;
use std::sync::Arc;

/// Runs that are kept; replies to older messages find no publisher.
const MAX_RUNS: usize = 256;

/// Runs of publications by the same publisher, oldest first.
#[derive(Default)]
pub struct PublisherIndex(VecDeque<(u64, Arc<str>)>);

impl PublisherIndex {
    /// Records a publication; offsets must increase.
    pub fn record(&mut self, offset: u64, publisher: &str) {
        if self.0.back().is_some_and(|(_, last)| **last == *publisher) {
            return;
        }
        if self.0.len() == MAX_RUNS {
            self.0.pop_front();
        }
        self.0.push_back((offset, publisher.into()));
    }

    /// `None` if the offset is before the oldest run.
    pub fn of(&self, offset: u64) -> Option<&Arc<str>> {
        let runs = self.0.partition_point(|(first, _)| *first <= offset);
        runs.checked_sub(1).map(|at| &self.0[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_publisher_of_run() {
        let mut index = PublisherIndex::default();
        for (offset, publisher) in [(1, "a"), (2, "a"), (3, "b"), (4, "a")] {
            index.record(offset, publisher);
        }
        let of = |offset| index.of(offset).map(|publisher| publisher.to_string());
        assert_eq!(
            [0, 1, 2, 3, 4, 9].map(of),
            [None, Some("a"), Some("a"), Some("b"), Some("a"), Some("a")].map(|p| p.map(str::to_owned))
        );
    }

    #[test]
    fn old_runs_are_dropped() {
        let mut index = PublisherIndex::default();
        (1..=1000).for_each(|offset| index.record(offset, if offset % 2 == 0 { "a" } else { "b" }));
        assert_eq!(index.0.len(), MAX_RUNS);
        assert!(index.of(1000 - MAX_RUNS as u64).is_none());
        assert_eq!(index.of(1000).map(|publisher| &**publisher), Some("a"));
    }
}
