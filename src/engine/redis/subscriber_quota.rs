//! The quota of one channel's subscribers over all nodes: this node reserves slots in Redis before it hands them out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::connection::Connection;
use super::core::Core;
use super::keys::SCRIPTS;
use crate::engine::channels::SharedLog;
use crate::engine::millis::millis;
use crate::protocol::{ChannelName, ErrorCode, Refusal};

/// The slots of a node that stopped are free after this.
const QUOTA_LEASE: Duration = Duration::from_secs(30);

/// Most slots that are reserved ahead.
const MAX_BLOCK: u64 = 64;

pub struct SubscriberQuota {
    channel: ChannelName,
    log: SharedLog,
    block: Mutex<QuotaBlock>,
    /// Slots that were handed out and have no subscriber yet.
    reserved: AtomicU64,
}

/// The slots that this node has in Redis.
#[derive(Default)]
struct QuotaBlock {
    count: u64,
    /// Slots of all other nodes at the last request.
    others: u64,
    /// Time and connection of the last request. After a reconnect, Redis may have lost the slots.
    requested: Option<(Instant, u64)>,
}

impl QuotaBlock {
    /// Whether the last request on this connection is younger than `max_age`.
    fn is_fresh(&self, connection: &Connection, max_age: Duration) -> bool {
        self.requested.is_some_and(|(at, number)| number == connection.number && at.elapsed() < max_age)
    }
}

/// A slot for one subscriber that is about to join; released when this is dropped.
pub struct Reservation(Arc<SubscriberQuota>);

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.reserved.fetch_sub(1, Ordering::AcqRel);
    }
}

impl SubscriberQuota {
    pub fn new(channel: ChannelName, log: SharedLog) -> Arc<Self> {
        Arc::new(Self { channel, log, block: Mutex::default(), reserved: AtomicU64::new(0) })
    }

    /// Reserves a slot; `limit` is over all nodes.
    pub async fn reserve(
        self: &Arc<Self>,
        core: &Core,
        connection: &Connection,
        limit: u64,
    ) -> Result<Reservation, Refusal> {
        let mut block = self.block.lock().await;
        let taken = self.taken(core);
        if !block.is_fresh(connection, QUOTA_LEASE) || taken >= block.count {
            let free = limit.saturating_sub(block.others).saturating_sub(taken);
            let wanted = taken + (free / 8).clamp(1, MAX_BLOCK);
            self.request(core, connection, &mut block, wanted, taken, limit).await?;
        }
        if taken >= block.count {
            return Err(Refusal::new(ErrorCode::ConnectionLimit, "channel is full (max_connections)"));
        }
        self.reserved.fetch_add(1, Ordering::AcqRel);
        Ok(Reservation(self.clone()))
    }

    /// Returns unused slots, reports this node's subscribers, and keeps the channel's state from expiring. To be called
    /// once a second; sends nothing if nothing changed recently.
    pub async fn renew(&self, core: &Core, connection: &Connection, limit: u64) -> Result<(), Refusal> {
        let mut block = self.block.lock().await;
        let taken = self.taken(core);
        if !block.is_fresh(connection, (QUOTA_LEASE / 3).min(core.idle / 3)) || taken != block.count {
            self.request(core, connection, &mut block, taken, taken, limit).await?;
        }
        Ok(())
    }

    /// Removes everything that this node has reserved.
    pub async fn leave(&self, core: &Core, connection: &Connection) -> Result<(), Refusal> {
        let mut script = SCRIPTS.leave.prepare_invoke();
        script.key(core.keys.subscriber_quota(&self.channel)).key(core.keys.wait(&self.channel)).arg(&core.node);
        connection.invoke(&script).await
    }

    /// The epoch with which subscribers wait; empty if Redis had the channel.
    fn waiting_epoch(&self) -> String {
        let log = self.log.lock();
        if log.is_waiting() { log.epoch.to_string() } else { String::new() }
    }

    /// Slots in use. To be called with `block` locked, so that no slot is reserved meanwhile.
    fn taken(&self, core: &Core) -> u64 {
        // In this order: a reservation is dropped after its subscriber has joined.
        let reserved = self.reserved.load(Ordering::Acquire);
        reserved + core.channels.hub.subscriber_count(&self.channel)
    }

    async fn request(
        &self,
        core: &Core,
        connection: &Connection,
        block: &mut QuotaBlock,
        wanted: u64,
        taken: u64,
        limit: u64,
    ) -> Result<(), Refusal> {
        let (keys, channel, requested) = (&core.keys, &self.channel, Instant::now());
        let mut script = SCRIPTS.reserve.prepare_invoke();
        script.key(keys.subscriber_quota(channel)).key(keys.state(channel)).key(keys.wait(channel));
        script.arg(&core.node).arg(wanted).arg(limit).arg(millis(QUOTA_LEASE)).arg(taken);
        script.arg(millis(core.idle)).arg(self.waiting_epoch());
        // If the response is lost, Redis may count more slots for this node than the node does, never fewer.
        (block.count, block.requested) = (block.count.min(wanted), None);
        let (count, others, _): (u64, u64, Vec<String>) = connection.invoke(&script).await?;
        *block = QuotaBlock { count, others, requested: Some((requested, connection.number)) };
        Ok(())
    }
}
