//! Waiting names: subscribers wait for the first publication of a channel that no publisher has made.
//!
//! They are counted apart from channels, in total and for each holder, so that subscribers take no room from publishers
//! and none of them takes it from all others.

use std::collections::HashMap;
use std::time::Duration;

use metrics::Gauge;
use parking_lot::Mutex;

use crate::broker::Holder;
use crate::protocol::{ErrorCode, Refusal};

/// A name is free as soon as its last subscriber leaves; polls do so within a minute.
pub const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The bounds of waiting names.
#[derive(Clone, Copy, Debug)]
pub struct WaitingLimits {
    pub max_names: usize,
    /// Names of one holder.
    pub max_names_per_holder: usize,
}

/// The holders of one waiting name, each with the number of its subscriptions.
#[derive(Default)]
pub struct Holders(HashMap<Holder, usize>);

/// Counts all waiting names.
pub struct WaitingNames {
    limits: WaitingLimits,
    counts: Mutex<Counts>,
    gauge: Gauge,
}

#[derive(Default)]
struct Counts {
    names: usize,
    by_holder: HashMap<Holder, usize>,
}

impl WaitingNames {
    pub fn new(limits: WaitingLimits, gauge: Gauge) -> Self {
        Self { limits, counts: Mutex::default(), gauge }
    }

    /// Counts a subscription of `holder`.
    pub fn add(&self, holders: &mut Holders, holder: Holder) -> Result<(), Refusal> {
        let is_new = holders.0.is_empty();
        if let Some(subscriptions) = holders.0.get_mut(&holder) {
            *subscriptions += 1;
            return Ok(());
        }
        let mut counts = self.counts.lock();
        if is_new && counts.names >= self.limits.max_names {
            return Err(full("too many channels are waited for (max_waiting_names)"));
        }
        let own = counts.by_holder.entry(holder).or_default();
        if *own >= self.limits.max_names_per_holder {
            return Err(full("person or address waits for too many channels (max_waiting_names_per_holder)"));
        }
        *own += 1;
        if is_new {
            counts.names += 1;
            self.gauge.increment(1);
        }
        holders.0.insert(holder, 1);
        Ok(())
    }

    /// Ends one subscription of `holder`. `true` if the name has no other.
    pub fn remove(&self, holders: &mut Holders, holder: Holder) -> bool {
        let Some(subscriptions) = holders.0.get_mut(&holder) else { return false };
        *subscriptions -= 1;
        if *subscriptions == 0 {
            holders.0.remove(&holder);
            self.counts.lock().release(holder);
        }
        holders.0.is_empty()
    }

    /// The name is a channel now, or was removed.
    pub fn remove_name(&self, holders: &Holders) {
        let mut counts = self.counts.lock();
        holders.0.keys().for_each(|holder| counts.release(*holder));
        counts.names -= 1;
        self.gauge.decrement(1);
    }
}

impl Counts {
    fn release(&mut self, holder: Holder) {
        if let Some(names) = self.by_holder.get_mut(&holder) {
            *names -= 1;
            if *names == 0 {
                self.by_holder.remove(&holder);
            }
        }
    }
}

fn full(detail: &'static str) -> Refusal {
    Refusal::new(ErrorCode::LimitReached, detail).retry_after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn shares_and_total_hold() {
        let holder = |n: u8| Holder::of_address(Some(IpAddr::from([192, 0, 2, n])));
        let names = WaitingNames::new(WaitingLimits { max_names: 3, max_names_per_holder: 2 }, Gauge::noop());
        let mut all: Vec<Holders> = (0..4).map(|_| Holders::default()).collect();
        names.add(&mut all[0], holder(1)).unwrap();
        names.add(&mut all[0], holder(1)).unwrap();
        names.add(&mut all[1], holder(1)).unwrap();
        let refusal = names.add(&mut all[2], holder(1)).unwrap_err();
        assert_eq!((refusal.code, refusal.is_temporary()), (ErrorCode::LimitReached, true));
        assert!(names.add(&mut all[2], holder(1)).is_err(), "a refused name counts nothing");
        names.add(&mut all[2], holder(2)).unwrap();
        assert!(names.add(&mut all[3], holder(3)).is_err(), "the total");
        names.add(&mut all[2], holder(3)).unwrap();

        assert!(!names.remove(&mut all[0], holder(1)) && names.remove(&mut all[0], holder(1)));
        names.remove_name(&all[0]);
        names.add(&mut all[3], holder(1)).unwrap();
        [1, 2, 3].iter().for_each(|at| names.remove_name(&all[*at]));
        let counts = names.counts.lock();
        assert!(counts.names == 0 && counts.by_holder.is_empty());
    }
}
