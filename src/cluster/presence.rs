//! Exchanges presence updates of watched channels between nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver};
use tokio::time::timeout;

use crate::broker::channel::presence::{PRESENCE_LEASE, Presence, PresenceUpdate, RefreshList};
use crate::broker::engine::node_bus::{NodeMessage, Topic};
use crate::broker::{Hub, NodeBus};
use crate::ops::log::folded;
use crate::protocol::ChannelName;

/// How often a node renews its watches, and resends its counts to nodes that watch.
const REFRESH_INTERVAL: Duration = PRESENCE_LEASE.checked_div(3).unwrap();

/// Pause between chunks of resent counts, so that events find room in the queue.
const REFRESH_CHUNK_PAUSE: Duration = Duration::from_millis(10);

/// Counts of nodes that answer later come with their first update.
const REMOTE_COUNT_TIMEOUT: Duration = Duration::from_secs(2);

/// Updates of one message, and watches renewed at the same time.
const MAX_UPDATES_PER_MESSAGE: usize = 256;

/// Subscribes to presence updates of a channel from other nodes, and returns their current counts by node.
pub fn remote_counts(bus: Option<Arc<dyn NodeBus>>, channel: ChannelName) -> BoxFuture<'static, Vec<(String, u64)>> {
    Box::pin(async move {
        let Some(bus) = bus else { return Vec::new() };
        timeout(REMOTE_COUNT_TIMEOUT, bus.watch_presence(&channel)).await.ok().and_then(Result::ok).unwrap_or_default()
    })
}

/// Runs until it is dropped.
pub async fn run(bus: Arc<dyn NodeBus>, hub: Hub) {
    let presence = hub.presence();
    let updates = presence.enable_cluster(bus.node());
    tokio::join!(send(&*bus, updates), receive(presence, bus.subscribe(Topic::Presence)), refresh(&*bus, presence));
}

/// One chunk after the other, so that each node receives updates in their order.
async fn send(bus: &dyn NodeBus, mut updates: Receiver<(Arc<str>, PresenceUpdate)>) {
    let mut chunk = Vec::new();
    while updates.recv_many(&mut chunk, MAX_UPDATES_PER_MESSAGE).await > 0 {
        let mut by_node = BTreeMap::<Arc<str>, Vec<PresenceUpdate>>::new();
        chunk.drain(..).for_each(|(node, update)| by_node.entry(node).or_default().push(update));
        let encoded = by_node.iter().filter_map(|(node, updates)| Some((node, serde_json::to_vec(updates).ok()?)));
        // The next count corrects a lost update.
        join_all(encoded.map(|(node, bytes)| bus.send(node, Topic::Presence, &bytes))).await;
    }
}

async fn receive(presence: &Presence, mut messages: UnboundedReceiver<NodeMessage>) {
    while let Some(message) = messages.recv().await {
        match serde_json::from_slice::<Vec<PresenceUpdate>>(&message.bytes) {
            Ok(updates) => {
                updates.iter().for_each(|update| presence.on_remote_update(&message.from, update, Instant::now()))
            }
            Err(error) => {
                folded!(WARN, message.from, "cannot decode message from node", node = message.from, %error);
            }
        }
    }
}

async fn refresh(bus: &dyn NodeBus, presence: &Presence) {
    loop {
        tokio::time::sleep(REFRESH_INTERVAL).await;
        let RefreshList { local, remote } = presence.refresh(Instant::now());
        for chunk in remote.chunks(MAX_UPDATES_PER_MESSAGE) {
            chunk.iter().for_each(|channel| presence.resend_counts(channel));
            tokio::time::sleep(REFRESH_CHUNK_PAUSE).await;
        }
        // A failed renewal is repeated at the next refresh.
        stream::iter(&local)
            .for_each_concurrent(MAX_UPDATES_PER_MESSAGE, |channel| async { drop(bus.watch_presence(channel).await) })
            .await;
    }
}
