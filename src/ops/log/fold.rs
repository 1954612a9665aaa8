//! Lines that clients or other nodes can cause: at most one a second for each event and cause, with a count.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::Level;

const INTERVAL: Duration = Duration::from_secs(1);

/// Causes that are counted apart. Further ones are counted together, for each event.
const MAX_CAUSES: usize = 1024;

/// Longest cause; the rest is cut off. A cause may hold the name of an authenticated client.
const MAX_CAUSE_CHARS: usize = 100;

/// All folds of this process.
static FOLDS: LazyLock<Mutex<Folds>> = LazyLock::new(Mutex::default);

/// Logs a line unless there was one within a second with the same message and cause: `folded!(INFO, cause, "message", fields)`.
macro_rules! folded {
    ($level:ident, $cause:expr, $message:literal $(, $($field:tt)*)?) => {
        if tracing::enabled!(tracing::Level::$level)
            && let Some(left_out) =
                $crate::ops::log::fold::admit(tracing::Level::$level, (module_path!(), $message), &$cause)
        {
            tracing::event!(tracing::Level::$level, $($($field)*,)? left_out = (left_out > 0).then_some(left_out), $message);
        }
    };
}
pub(crate) use folded;

/// Module and message of a line.
type Event = (&'static str, &'static str);

#[derive(Default)]
struct Folds(HashMap<(Event, String), Fold>);

struct Fold {
    level: Level,
    /// When a line was logged last.
    logged: Instant,
    /// Lines since then.
    left_out: u64,
}

/// Whether a line is logged now, with the number of those that were left out before it.
pub fn admit(level: Level, event: Event, cause: &dyn Display) -> Option<u64> {
    let cause = cause.to_string().chars().take(MAX_CAUSE_CHARS).collect();
    FOLDS.lock().admit(level, event, cause, Instant::now())
}

/// Logs the counts of events that did not happen again. To be called once a second.
pub fn report() {
    let due = FOLDS.lock().take_due(Instant::now(), INTERVAL);
    due.into_iter().for_each(Due::log);
}

/// Logs all counts, at the end of the process.
pub fn report_all() {
    let due = FOLDS.lock().take_due(Instant::now(), Duration::ZERO);
    due.into_iter().for_each(Due::log);
}

impl Folds {
    fn admit(&mut self, level: Level, event: Event, mut cause: String, now: Instant) -> Option<u64> {
        if self.0.len() >= MAX_CAUSES && !self.0.contains_key(&(event, cause.clone())) {
            cause = "other".to_owned();
        }
        let mut is_new = false;
        let fold = self.0.entry((event, cause)).or_insert_with(|| {
            is_new = true;
            Fold { level, logged: now, left_out: 0 }
        });
        if is_new || now.saturating_duration_since(fold.logged) >= INTERVAL {
            fold.logged = now;
            return Some(std::mem::take(&mut fold.left_out));
        }
        fold.left_out += 1;
        None
    }

    /// Takes the counts of lines that are older than `age`, and forgets events without one.
    fn take_due(&mut self, now: Instant, age: Duration) -> Vec<Due> {
        let mut due = Vec::new();
        self.0.retain(|(event, cause), fold| {
            if now.saturating_duration_since(fold.logged) < age {
                return true;
            }
            fold.logged = now;
            let left_out = std::mem::take(&mut fold.left_out);
            if left_out > 0 {
                due.push(Due { level: fold.level, message: event.1, cause: cause.clone(), left_out });
            }
            left_out > 0
        });
        due
    }
}

/// A count to be logged.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    level: Level,
    message: &'static str,
    cause: String,
    left_out: u64,
}

impl Due {
    /// The level of an event is a constant of its place in the code.
    fn log(self) {
        let Self { level, message, cause, left_out } = self;
        match level {
            Level::ERROR => tracing::error!(event = message, cause, left_out, "lines left out"),
            Level::WARN => tracing::warn!(event = message, cause, left_out, "lines left out"),
            Level::INFO => tracing::info!(event = message, cause, left_out, "lines left out"),
            _ => tracing::debug!(event = message, cause, left_out, "lines left out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: Event = ("module", "token refused");

    #[test]
    fn one_line_each_second_and_cause() {
        let (mut folds, start) = (Folds::default(), Instant::now());
        let mut admit = |cause: &str, millis| {
            folds.admit(Level::INFO, EVENT, cause.to_owned(), start + Duration::from_millis(millis))
        };
        assert_eq!(admit("expired", 0), Some(0));
        assert_eq!(admit("revoked", 0), Some(0));
        assert_eq!((admit("expired", 1), admit("expired", 999)), (None, None));
        assert_eq!(admit("expired", 1000), Some(2));
        assert_eq!(admit("expired", 1500), None);
        // The count is a line too: the next one comes a second later.
        let due = folds.take_due(start + Duration::from_millis(2000), INTERVAL);
        let expected = Due { level: Level::INFO, message: EVENT.1, cause: "expired".to_owned(), left_out: 1 };
        assert_eq!(due, [expected]);
        let mut admit =
            |millis| folds.admit(Level::INFO, EVENT, "expired".to_owned(), start + Duration::from_millis(millis));
        assert_eq!((admit(2999), admit(3000)), (None, Some(1)));
        assert!(folds.take_due(start + Duration::from_millis(4000), INTERVAL).is_empty());
        assert!(folds.0.is_empty());
    }

    #[test]
    fn causes_are_bounded() {
        let (mut folds, now) = (Folds::default(), Instant::now());
        let admitted = (0..5000).filter(|n| folds.admit(Level::INFO, EVENT, n.to_string(), now).is_some()).count();
        assert_eq!((admitted, folds.0.len()), (MAX_CAUSES + 1, MAX_CAUSES + 1));
        // A known cause is still counted apart.
        assert_eq!(folds.admit(Level::INFO, EVENT, "0".to_owned(), now + INTERVAL), Some(0));
        let left_out: u64 = folds.take_due(now, Duration::ZERO).iter().map(|due| due.left_out).sum();
        assert_eq!(left_out as usize, 5000 - admitted);
    }
}
