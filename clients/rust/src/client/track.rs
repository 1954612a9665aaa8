//! Tracks a subscription's position: drops duplicates and detects gaps.

use crate::publication::{Gap, GapReason, Position};

#[derive(Debug)]
pub(super) struct Track {
    /// Position of the last publication received, or where the subscription started.
    pub position: Option<Position>,
    backlog: u64,
    /// Position of a reported gap. The next publication may skip offsets.
    gap_reported_at: Option<Position>,
}

impl Track {
    pub(super) fn new(since: Option<Position>, backlog: u64) -> Self {
        Self { position: since, backlog, gap_reported_at: None }
    }

    /// Members of a `subscribe` command that request the missing publications.
    pub(super) fn resume_params(&self) -> String {
        match &self.position {
            Some(Position { epoch, offset }) => {
                let epoch = serde_json::Value::from(epoch.as_str());
                format!(r#","since":{{"epoch":{epoch},"offset":{offset}}}"#)
            }
            None if self.backlog > 0 => format!(r#","backlog":{}"#, self.backlog),
            None => String::new(),
        }
    }

    /// Handles `subscribed`. Returns whether nothing is missing, and a gap that was not reported yet.
    pub(super) fn on_subscribed(&mut self, here: &Position, recovered: bool) -> (bool, Option<Gap>) {
        let Some(before) = self.position.clone() else {
            // If none of the backlog arrives, the next connection requests it again.
            self.position = Some(Position { offset: here.offset.saturating_sub(self.backlog), ..here.clone() });
            if !recovered {
                self.gap_reported_at = Some(here.clone());
            }
            return (recovered, None);
        };
        let is_same = before.epoch == here.epoch;
        // With the newest offset nothing is missing, even if the backlog is gone.
        if recovered || (is_same && here.offset <= before.offset) {
            if !recovered {
                self.gap_reported_at = None;
            }
            return (true, None);
        }
        let is_new = self.gap_reported_at.as_ref() != Some(here);
        self.gap_reported_at = Some(here.clone());
        if !is_same {
            self.position = Some(Position { offset: 0, ..here.clone() });
        }
        (false, is_new.then_some(Gap { reason: GapReason::HistoryLost, after: before }))
    }

    /// Handles a publication. Returns `None` for a duplicate, else an unreported gap before it.
    pub(super) fn on_publication(&mut self, at: &Position) -> Option<Option<Gap>> {
        let before = self.position.replace(at.clone());
        let Some(before) = before else { return Some(None) };
        let is_same = before.epoch == at.epoch;
        if is_same && at.offset <= before.offset {
            self.position = Some(before);
            return None;
        }
        let is_next = is_same && at.offset == before.offset.saturating_add(1);
        let is_reported = self.gap_reported_at.take().is_some();
        let reason = if is_same { GapReason::Skipped } else { GapReason::HistoryLost };
        Some((!is_next && !is_reported).then_some(Gap { reason, after: before }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: &str, offset: u64) -> Position {
        Position { epoch: epoch.into(), offset }
    }

    #[test]
    fn starts_with_backlog_and_resumes() {
        let mut track = Track::new(None, 10);
        assert_eq!(track.resume_params(), r#","backlog":10"#);
        assert_eq!(track.on_subscribed(&at("e", 44), true), (true, None));
        assert_eq!(track.resume_params(), r#","since":{"epoch":"e","offset":34}"#);
        assert_eq!(track.on_publication(&at("e", 35)), Some(None));
        assert_eq!(track.on_publication(&at("e", 35)), None, "duplicate");
        assert_eq!(track.on_subscribed(&at("e", 50), true), (true, None));
        assert_eq!(track.on_publication(&at("e", 36)), Some(None));
    }

    #[test]
    fn gap_is_reported_once() {
        let mut track = Track::new(Some(at("e", 5)), 0);
        let lost = Gap { reason: GapReason::HistoryLost, after: at("e", 5) };
        assert_eq!(track.on_subscribed(&at("e", 90), false), (false, Some(lost)));
        assert_eq!(track.on_subscribed(&at("e", 90), false), (false, None), "reported once");
        assert_eq!(track.on_publication(&at("e", 81)), Some(None), "reported before");
        let skipped = Gap { reason: GapReason::Skipped, after: at("e", 81) };
        assert_eq!(track.on_publication(&at("e", 84)), Some(Some(skipped)));
        let lost = Gap { reason: GapReason::HistoryLost, after: at("e", 84) };
        assert_eq!(track.on_publication(&at("f", 1)), Some(Some(lost)));
    }

    #[test]
    fn newest_position_has_no_gap() {
        let mut track = Track::new(Some(at("e", 5)), 0);
        assert_eq!(track.on_subscribed(&at("e", 5), false), (true, None));
        assert_eq!(track.on_publication(&at("e", 6)), Some(None));
    }
}
