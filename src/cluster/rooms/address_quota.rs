//! How many rooms each address has opened on all nodes together. A node says that it has one more before it opens it, so
//! two nodes never give away the same place; what ended is said within a second.

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

/// Addresses that are remembered beside those that may have a room: what is known of them is not told yet.
const MAX_UNREPORTED_ADDRESSES: usize = 1024;

pub struct AddressQuota {
    /// 0 for no limit.
    max_per_address: u64,
    max_addresses: usize,
    addresses: parking_lot::Mutex<HashMap<IpAddr, Arc<Mutex<Reported>>>>,
}

/// What was told of an address; `None` if it is not known what arrived.
pub type Reported = Option<ReportedCount>;

#[derive(Clone, Copy)]
pub struct ReportedCount {
    rooms: u64,
    since: Instant,
    /// Behind another connection may be a memory that knows nothing of it.
    connection: u64,
}

/// A place for a room that is about to be opened. To be held until the room is there.
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

    /// Keeps a place for one more room of an address, if that is counted.
    pub async fn reserve(
        &self,
        shared: Option<&dyn SharedStore>,
        rooms: &Rooms,
        address: Option<IpAddr>,
    ) -> Result<Option<Reservation>, Refusal> {
        let Some(address) = address.filter(|_| self.max_per_address != 0) else { return Ok(None) };
        let mut told = self.of(address)?.lock_owned().await;
        let has_place = rooms.opened_by(address) < self.max_per_address
            && self.report(&mut told, shared.ok_or(ErrorCode::EngineUnavailable)?, rooms, address, 1).await?;
        if has_place {
            return Ok(Some(told));
        }
        Err(Refusal::new(ErrorCode::LimitReached, "there are as many rooms as there may be"))
    }

    fn of(&self, address: IpAddr) -> Result<Arc<Mutex<Reported>>, Refusal> {
        let mut addresses = self.addresses.lock();
        if addresses.len() >= self.max_addresses && !addresses.contains_key(&address) {
            return Err(Refusal::new(ErrorCode::EngineUnavailable, "too much waits to be told; try again later"));
        }
        Ok(addresses.entry(address).or_default().clone())
    }

    /// Tells how many rooms of an address are here, and asks for `more`. Whether there are so many places.
    async fn report(
        &self,
        told: &mut Reported,
        shared: &dyn SharedStore,
        rooms: &Rooms,
        address: IpAddr,
        more: u64,
    ) -> Result<bool, Refusal> {
        let here = rooms.opened_by(address);
        // If the answer is lost, the other nodes may know of more than there are, never of less.
        *told = None;
        let (name, connection, since) = (format!("room:opened:{address}"), shared.connection_epoch()?, Instant::now());
        let places = shared.reserve(&name, here, here + more, self.max_per_address, DIRECTORY_LEASE).await?;
        *told = Some(ReportedCount { rooms: places, since, connection });
        Ok(places >= here + more)
    }

    /// Tells what is not as it was told, and what is told for long. To be called once a second.
    pub async fn refresh(&self, shared: &dyn SharedStore, rooms: &Rooms) {
        let Ok(connection) = shared.connection_epoch() else { return };
        let mut due = Vec::new();
        self.addresses.lock().retain(|address, told| {
            // Whoever holds it tells.
            let Ok(known) = told.try_lock().map(|known| *known) else { return true };
            let here = rooms.opened_by(*address);
            if known.is_some_and(|known| known.rooms == here && known.is_fresh(connection)) {
                // Somebody may just want it.
                return here > 0 || Arc::strong_count(told) > 1;
            }
            due.push((*address, told.clone()));
            true
        });
        stream::iter(due)
            .for_each_concurrent(MAX_CONCURRENT_REQUESTS, |(address, told)| async move {
                // What fails is told again.
                let _ = self.report(&mut *told.lock().await, shared, rooms, address, 0).await;
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

    #[tokio::test]
    async fn addresses_that_ask_while_nothing_can_be_told_take_only_so_much_memory() {
        let limits = RoomLimits { max_rooms: 10, max_rooms_per_address: 3, ..limits() };
        let (openers, rooms) = (AddressQuota::new(&limits), Rooms::new(limits));
        for n in 0..5000u32 {
            let refused = openers.reserve(None, &rooms, Some(IpAddr::from(n.to_be_bytes()))).await;
            assert_eq!(refused.err().map(|refusal| refusal.code), Some(ErrorCode::EngineUnavailable));
        }
        assert_eq!(openers.addresses.lock().len(), 10 + MAX_UNREPORTED_ADDRESSES);
    }
}
