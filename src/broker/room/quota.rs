//! Quotas of rooms on this node: in all, and by the address that opened them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::counters::RoomCounters;
use super::limits::RoomLimits;

/// Counts open rooms against the limits.
pub struct RoomQuota {
    max_rooms: u64,
    max_per_address: u64,
    counts: Mutex<RoomCounts>,
    counters: Arc<RoomCounters>,
}

#[derive(Default)]
struct RoomCounts {
    all: u64,
    addresses: HashMap<IpAddr, u64>,
}

/// One room of the quota; released when this is dropped.
pub struct RoomPermit {
    quota: Arc<RoomQuota>,
    address: Option<IpAddr>,
}

impl RoomQuota {
    pub fn new(limits: &RoomLimits, counters: Arc<RoomCounters>) -> Arc<Self> {
        Arc::new(Self {
            max_rooms: limits.max_rooms,
            max_per_address: limits.max_rooms_per_address,
            counts: Mutex::default(),
            counters,
        })
    }

    /// Counts one more room, opened by `address`; `None` if a limit is reached.
    pub fn open(self: &Arc<Self>, address: Option<IpAddr>) -> Option<RoomPermit> {
        // Not counted by address without a limit.
        let address = address.filter(|_| self.max_per_address != 0);
        let mut counts = self.counts.lock();
        let of_address = address.and_then(|address| counts.addresses.get(&address).copied()).unwrap_or(0);
        if counts.all >= self.max_rooms || (address.is_some() && of_address >= self.max_per_address) {
            return None;
        }
        counts.all += 1;
        if let Some(address) = address {
            *counts.addresses.entry(address).or_default() += 1;
        }
        self.counters.open.increment(1);
        self.counters.opened.increment(1);
        Some(RoomPermit { quota: self.clone(), address })
    }

    pub fn count(&self) -> u64 {
        self.counts.lock().all
    }

    /// Open rooms of an address; 0 without a limit by address.
    pub fn opened_by(&self, address: IpAddr) -> u64 {
        self.counts.lock().addresses.get(&address).copied().unwrap_or(0)
    }

    /// Addresses with an open room.
    #[cfg(test)]
    pub fn addresses(&self) -> usize {
        self.counts.lock().addresses.len()
    }
}

impl Drop for RoomPermit {
    fn drop(&mut self) {
        let mut counts = self.quota.counts.lock();
        counts.all -= 1;
        if let Some(address) = self.address
            && let Some(count) = counts.addresses.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                counts.addresses.remove(&address);
            }
        }
        self.quota.counters.open.decrement(1);
    }
}
