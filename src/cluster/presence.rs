//! Lets publishers that watch a channel know of its subscribers on other nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver};
use tokio::time::timeout;

use crate::broker::NodeBus;
use crate::broker::channel::presence::{PRESENCE_LEASE, Presence, PresenceUpdate, RefreshList};
use crate::broker::engine::node_bus::{NodeMessage, Topic};
use crate::protocol::ChannelName;
use crate::transport::state::AppState;

/// How often a node says what it watches, and how many subscribers it has of what others watch.
const REFRESH_INTERVAL: Duration = PRESENCE_LEASE.checked_div(3).unwrap();

/// Between numbers of so many channels as go out together.
const REFRESH_CHUNK_PAUSE: Duration = Duration::from_millis(10);

/// What is known of other nodes is waited for so long.
const REMOTE_COUNT_TIMEOUT: Duration = Duration::from_secs(2);

/// Notices that go out together, and channels that are renewed at once.
const MAX_UPDATES_PER_MESSAGE: usize = 256;

/// Asks for a channel's subscribers on other nodes, which from now on tell who comes and goes there. Those that are not
/// known in time are counted once they are heard of.
pub fn remote_counts(app: &AppState, channel: ChannelName) -> BoxFuture<'static, Vec<(String, u64)>> {
    let bus = app.engine.node_bus();
    Box::pin(async move {
        let Some(bus) = bus else { return Vec::new() };
        timeout(REMOTE_COUNT_TIMEOUT, bus.watch_presence(&channel)).await.ok().and_then(Result::ok).unwrap_or_default()
    })
}

/// Runs until it is dropped; returns at once where there are no other nodes.
pub async fn run(app: Arc<AppState>) {
    let Some(bus) = app.engine.node_bus() else { return };
    let observers = app.hub.observers();
    let notices = observers.enable_cluster(bus.node());
    tokio::join!(send(&*bus, notices), receive(observers, bus.subscribe(Topic::Presence)), refresh(&*bus, observers));
}

/// One bundle after the other, so that each node hears of things in their order.
async fn send(bus: &dyn NodeBus, mut notices: Receiver<(Arc<str>, PresenceUpdate)>) {
    let mut bundle = Vec::new();
    while notices.recv_many(&mut bundle, MAX_UPDATES_PER_MESSAGE).await > 0 {
        let mut by_node = BTreeMap::<Arc<str>, Vec<PresenceUpdate>>::new();
        bundle.drain(..).for_each(|(node, notice)| by_node.entry(node).or_default().push(notice));
        let written = by_node.iter().filter_map(|(node, notices)| Some((node, serde_json::to_vec(notices).ok()?)));
        // What is lost on the way is set right by the next number.
        join_all(written.map(|(node, bytes)| bus.send(node, Topic::Presence, &bytes))).await;
    }
}

async fn receive(observers: &Presence, mut words: UnboundedReceiver<NodeMessage>) {
    while let Some(word) = words.recv().await {
        match serde_json::from_slice::<Vec<PresenceUpdate>>(&word.bytes) {
            Ok(notices) => {
                notices.iter().for_each(|notice| observers.on_remote_update(&word.from, notice, Instant::now()))
            }
            Err(_) => tracing::warn!(node = word.from, "a word of another node cannot be read"),
        }
    }
}

async fn refresh(bus: &dyn NodeBus, observers: &Presence) {
    loop {
        tokio::time::sleep(REFRESH_INTERVAL).await;
        let RefreshList { local: here, remote: elsewhere } = observers.refresh(Instant::now());
        for some in elsewhere.chunks(MAX_UPDATES_PER_MESSAGE) {
            some.iter().for_each(|channel| observers.resend_counts(channel));
            // There is always room for what happens.
            tokio::time::sleep(REFRESH_CHUNK_PAUSE).await;
        }
        // What fails is said again soon.
        stream::iter(&here)
            .for_each_concurrent(MAX_UPDATES_PER_MESSAGE, |channel| async { drop(bus.watch_presence(channel).await) })
            .await;
    }
}
