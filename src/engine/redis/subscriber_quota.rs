//! The places of one channel over all nodes: this node reserves them in Redis before it gives them away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::Core;
use super::connection::Connection;
use super::keys::SCRIPTS;
use super::mirror::Mirror;
use crate::protocol::{ErrorCode, Refusal};

/// The places of a node that is gone are free after this.
const QUOTA_LEASE: Duration = Duration::from_secs(30);

/// Most places that are reserved ahead.
const MAX_BLOCK: u64 = 64;

#[derive(Default)]
pub struct SubscriberQuota {
    held: Mutex<QuotaBlock>,
    /// Places that were given away and not taken yet.
    promised: AtomicU64,
}

#[derive(Default)]
struct QuotaBlock {
    count: u64,
    /// Places of all other nodes, when Redis was asked last.
    others: u64,
    /// When, and over which connection: behind another one may be a Redis that knows nothing of this.
    asked: Option<(Instant, u64)>,
}

impl QuotaBlock {
    /// Whether Redis was asked within so long.
    fn is_fresh(&self, session: &Connection, within: Duration) -> bool {
        self.asked.is_some_and(|(asked, number)| number == session.number && asked.elapsed() < within)
    }
}

/// A place that is kept for somebody until this is dropped.
pub struct Reservation(Arc<Mirror>);

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.seats.promised.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Keeps a place for somebody; `limit` is over all nodes.
pub async fn reserve(
    core: &Core,
    session: &Connection,
    mirror: &Arc<Mirror>,
    limit: u64,
) -> Result<Reservation, Refusal> {
    let mut held = mirror.seats.held.lock().await;
    let taken = taken(core, mirror);
    if !held.is_fresh(session, QUOTA_LEASE) || taken >= held.count {
        let free = limit.saturating_sub(held.others).saturating_sub(taken);
        ask(core, session, mirror, &mut held, taken + (free / 8).clamp(1, MAX_BLOCK), taken, limit).await?;
    }
    if taken >= held.count {
        return Err(Refusal::new(ErrorCode::ConnectionLimit, "the channel has as many subscribers as it may have"));
    }
    mirror.seats.promised.fetch_add(1, Ordering::AcqRel);
    Ok(Reservation(mirror.clone()))
}

/// Gives back what is not used, tells how many are here, and keeps the channel alive. To be called once a second;
/// does nothing where nothing changed lately.
pub async fn keep(core: &Core, session: &Connection, mirror: &Arc<Mirror>, limit: u64) -> Result<(), Refusal> {
    let mut held = mirror.seats.held.lock().await;
    let taken = taken(core, mirror);
    if !held.is_fresh(session, (QUOTA_LEASE / 3).min(core.idle / 3)) || taken != held.count {
        ask(core, session, mirror, &mut held, taken, taken, limit).await?;
    }
    Ok(())
}

/// To be called with the lock of `held`, so that nobody promises meanwhile.
fn taken(core: &Core, mirror: &Mirror) -> u64 {
    // In this order: a promise is dropped after its place is taken.
    let promised = mirror.seats.promised.load(Ordering::Acquire);
    promised + core.channels.hub.subscriber_count(&mirror.channel)
}

async fn ask(
    core: &Core,
    session: &Connection,
    mirror: &Mirror,
    held: &mut QuotaBlock,
    wanted: u64,
    taken: u64,
    limit: u64,
) -> Result<(), Refusal> {
    let (names, channel, asked) = (&core.names, &mirror.channel, Instant::now());
    let mut script = SCRIPTS.reserve.prepare_invoke();
    script.key(names.subscriber_quota(channel)).key(names.state(channel));
    script.arg(&core.node).arg(wanted).arg(limit).arg(QUOTA_LEASE.as_millis() as u64).arg(taken);
    script.arg(core.idle.as_millis() as u64);
    // If the answer is lost, Redis may hold more for this node than it knows, never less.
    (held.count, held.asked) = (held.count.min(wanted), None);
    let (count, others, _): (u64, u64, Vec<String>) = session.invoke(&script).await?;
    *held = QuotaBlock { count, others, asked: Some((asked, session.number)) };
    Ok(())
}
