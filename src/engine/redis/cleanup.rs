//! Once a second: this node renews what it reserved in Redis, and gives up what its subscribers left.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::join_all;

use super::connection::Connection;
use super::mirror::Mirror;
use super::{MAX_CONCURRENT_RESYNCS, Node};
use crate::engine::log::LogState;

/// Mirrors that are removed while no subscriber can be added.
const CLEANUP_BATCH: usize = 64;

impl Node {
    /// Renews this node's leases in Redis and unsubscribes from channels that it does not use any more.
    pub async fn cleanup(&self, connection: &Arc<Connection>) {
        let core = &self.core;
        let mirrors: Vec<_> = self.mirrors.lock().values().cloned().collect();
        let (removed, kept): (Vec<_>, Vec<_>) =
            mirrors.into_iter().partition(|mirror| mirror.log.lock().state == LogState::Removed);
        futures_util::stream::iter(kept.iter().filter(|mirror| mirror.is_ready()))
            .for_each_concurrent(MAX_CONCURRENT_RESYNCS, |mirror| async move {
                // The next sweep retries.
                let _ = mirror.quota.renew(core, connection, self.max_subscribers(mirror)).await;
            })
            .await;
        // New subscribers wait for one part, and not for all of it.
        for removed in removed.chunks(CLEANUP_BATCH) {
            let _no_subscribe = core.subscribe_lock.write().await;
            join_all(removed.iter().map(|mirror| self.remove(mirror, connection))).await;
        }
    }

    async fn remove(&self, mirror: &Arc<Mirror>, connection: &Connection) {
        {
            let mut mirrors = self.mirrors.lock();
            if !mirrors.get(&mirror.channel).is_some_and(|known| Arc::ptr_eq(known, mirror)) {
                return;
            }
            mirrors.remove(&mirror.channel);
        }
        let pubsub = self.core.keys.pubsub(&mirror.channel);
        // If this fails, messages without a mirror arrive and are dropped, and the reservations expire.
        let _ = tokio::join!(connection.unsubscribe(&pubsub), mirror.quota.leave(&self.core, connection));
    }
}
