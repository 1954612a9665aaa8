//! Quotas of rooms on this node: in all, and by the address that opened them.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::counters::RoomCounters;
use super::limits::RoomLimits;
use crate::broker::quota::{Quota, QuotaPermit};

/// A site has 65,536 addresses, as limits count them, and so many shares of an address.
const SITE_PREFIX: u8 = 48;
const SHARES_OF_SITE: u64 = 10;

/// Counts open rooms against the limits.
pub struct RoomQuota {
    max_rooms: u64,
    max_per_address: u64,
    counts: Arc<Quota<Counted>>,
    counters: Arc<RoomCounters>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Counted {
    All,
    /// `None` for all rooms without an address, and without a limit by address.
    OpenedBy(Option<IpAddr>),
    /// The IPv6 /48 of the address, which a customer may have as a whole.
    OpenedIn(Option<IpNet>),
}

/// One room of the quota; released when this is dropped.
pub struct RoomPermit {
    counters: Arc<RoomCounters>,
    _counted: QuotaPermit<Counted, 3>,
}

impl RoomQuota {
    pub fn new(limits: &RoomLimits, counters: Arc<RoomCounters>) -> Self {
        Self {
            max_rooms: limits.max_rooms,
            max_per_address: limits.max_rooms_per_address,
            counts: Quota::new(),
            counters,
        }
    }

    /// Counts one more room, opened by `address`; `None` if a limit is reached.
    pub fn open(&self, address: Option<IpAddr>) -> Option<RoomPermit> {
        let opener = address.filter(|_| self.max_per_address != 0);
        let max_of_opener = if opener.is_some() { self.max_per_address } else { 0 };
        let site = opener.filter(IpAddr::is_ipv6).and_then(|address| IpNet::new(address, SITE_PREFIX).ok());
        let max_of_site = if site.is_some() { SHARES_OF_SITE.saturating_mul(self.max_per_address) } else { 0 };
        let counted = self.counts.take([
            (Counted::All, self.max_rooms),
            (Counted::OpenedBy(opener), max_of_opener),
            (Counted::OpenedIn(site.map(|site| site.trunc())), max_of_site),
        ])?;
        self.counters.open.increment(1);
        self.counters.opened.increment(1);
        Some(RoomPermit { counters: self.counters.clone(), _counted: counted })
    }

    pub fn count(&self) -> u64 {
        self.counts.count(&Counted::All)
    }

    /// Open rooms of an address; 0 without a limit by address.
    pub fn opened_by(&self, address: IpAddr) -> u64 {
        self.counts.count(&Counted::OpenedBy(Some(address)))
    }

    /// Whether no room is counted.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.counts.keys() == 0
    }
}

impl Drop for RoomPermit {
    fn drop(&mut self) {
        self.counters.open.decrement(1);
    }
}
