//! The quota of rooms that each address has opened, over all nodes.
//!
//! A node reserves a slot in the shared store before it opens a room, so the limit is never exceeded. Freed slots are
//! returned within a second.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt, stream};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::directory::{DIRECTORY_LEASE, DIRECTORY_REFRESH_INTERVAL, MAX_CONCURRENT_REQUESTS};
use crate::broker::SharedStore;
use crate::broker::room::{RoomLimits, Rooms};
use crate::protocol::{ErrorCode, Refusal};

/// Addresses without a room, whose count is not reported yet.
const MAX_UNREPORTED_ADDRESSES: usize = 1024;

pub struct AddressQuota {
    /// 0 for no limit.
    max_per_address: u64,
    max_addresses: usize,
    addresses: parking_lot::Mutex<HashMap<IpAddr, Arc<Mutex<Reported>>>>,
}

/// The last report of an address; `None` if it is unknown whether it arrived.
pub type Reported = Option<ReportedCount>;

#[derive(Clone, Copy)]
pub struct ReportedCount {
    rooms: u64,
    since: Instant,
    /// The connection of the report. After a reconnect, the store may have lost it.
    connection: u64,
}

/// A slot for a room that is about to be opened. To be kept until the room exists.
pub type Reservation = OwnedMutexGuard<Reported>;

impl AddressQuota {
    pub fn new(limits: &RoomLimits) -> Self {
        let max_rooms = usize::try_from(limits.max_rooms).unwrap_or(usize::MAX);
        Self {
            max_per_address: limits.max_rooms_per_address,
            max_addresses: max_rooms.saturating_add(MAX_UNREPORTED_ADDRESSES),
            addresses: parking_lot::Mutex::default(),
        }
    }

    /// Reserves a slot for one more room of an address; `None` if rooms are not counted.
    pub async fn reserve(
        &self,
        shared: &dyn SharedStore,
        rooms: &Rooms,
        address: Option<IpAddr>,
    ) -> Result<Option<Reservation>, Refusal> {
        let Some(address) = address.filter(|_| self.max_per_address != 0) else { return Ok(None) };
        let mut reported = self.of(address)?.lock_owned().await;
        let is_reserved = rooms.opened_by(address) < self.max_per_address
            && self.report(&mut reported, shared, rooms, address, 1).await?;
        if is_reserved {
            return Ok(Some(reported));
        }
        Err(Refusal::new(ErrorCode::LimitReached, "room limit reached (max_rooms_per_address)"))
    }

    fn of(&self, address: IpAddr) -> Result<Arc<Mutex<Reported>>, Refusal> {
        let mut addresses = self.addresses.lock();
        if addresses.len() >= self.max_addresses && !addresses.contains_key(&address) {
            return Err(Refusal::new(ErrorCode::EngineUnavailable, "too many addresses to report, retry later"));
        }
        Ok(addresses.entry(address).or_default().clone())
    }

    /// Reports the rooms of an address on this node, and requests `more` slots. Returns whether they were granted.
    async fn report(
        &self,
        reported: &mut Reported,
        shared: &dyn SharedStore,
        rooms: &Rooms,
        address: IpAddr,
        more: u64,
    ) -> Result<bool, Refusal> {
        let count = rooms.opened_by(address);
        // If the response is lost, the store may count more rooms than there are, never fewer.
        *reported = None;
        let (name, connection, since) = (format!("room:opened:{address}"), shared.connection_epoch()?, Instant::now());
        let slots = shared.reserve(&name, count, count + more, self.max_per_address, DIRECTORY_LEASE).await?;
        *reported = Some(ReportedCount { rooms: slots, since, connection });
        Ok(slots >= count + more)
    }

    /// Reports the addresses whose number of rooms changed, and renews old reports. To be called once a second.
    pub async fn refresh(&self, shared: &dyn SharedStore, rooms: &Rooms) {
        let Ok(connection) = shared.connection_epoch() else { return };
        let mut due = Vec::new();
        self.addresses.lock().retain(|address, reported| {
            // The holder of the lock reports it.
            let Ok(known) = reported.try_lock().map(|known| *known) else { return true };
            let count = rooms.opened_by(*address);
            if known.is_some_and(|known| known.rooms == count && known.is_fresh(connection)) {
                // A reservation may be waiting for it.
                return count > 0 || Arc::strong_count(reported) > 1;
            }
            due.push((*address, reported.clone()));
            true
        });
        stream::iter(due)
            .for_each_concurrent(MAX_CONCURRENT_REQUESTS, |(address, reported)| async move {
                // The next refresh retries.
                let _ = self.report(&mut *reported.lock().await, shared, rooms, address, 0).await;
            })
            .await;
    }
}

impl ReportedCount {
    fn is_fresh(&self, connection: u64) -> bool {
        self.connection == connection && self.since.elapsed() < DIRECTORY_REFRESH_INTERVAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::room::tests::limits;
    use crate::engine::LocalStore;

    #[tokio::test]
    async fn remembered_addresses_are_bounded() {
        let limits = RoomLimits { max_rooms: 10, max_rooms_per_address: 3, ..limits() };
        let (quota, rooms, store) = (AddressQuota::new(&limits), Rooms::new(limits), LocalStore::new(0));
        let max_addresses = 10 + MAX_UNREPORTED_ADDRESSES;
        for n in 0..5000u32 {
            let reserved = quota.reserve(&store, &rooms, Some(IpAddr::from(n.to_be_bytes()))).await;
            let expected = (n as usize >= max_addresses).then_some(ErrorCode::EngineUnavailable);
            assert_eq!(reserved.err().map(|refusal| refusal.code), expected);
        }
        assert_eq!(quota.addresses.lock().len(), max_addresses);
    }
}
