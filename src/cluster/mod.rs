//! Coordination between nodes: membership, revocations, pushed policy, presence, replies and rooms.

pub mod membership;
pub mod presence;
mod push_record;
pub mod pushed_policy;
pub mod replies;
pub mod revocations;
pub mod rooms;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::membership::Member;
use self::rooms::{ClusterRooms, RemotePeerContext};
use crate::broker::{Engine, Hub, Now, Replies};

/// Time between the last sweep and the end of the tasks, in which presence updates and freed slots reach other nodes.
const LAST_UPDATES_GRACE: Duration = Duration::from_millis(250);

const DEREGISTER_TIMEOUT: Duration = Duration::from_millis(500);

/// The background tasks of a node.
pub struct Cluster {
    engine: Arc<dyn Engine>,
    tasks: JoinSet<()>,
}

impl Cluster {
    /// Starts the exchange with other nodes, if the engine connects any, and the node's own sweep.
    pub fn start(
        member: Member,
        hub: Hub,
        replies: Replies,
        rooms: Option<(Arc<ClusterRooms>, RemotePeerContext)>,
        sweep: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let (engine, lifecycle) = (member.engine.clone(), member.lifecycle.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(lifecycle.clone().supervise("sweep", sweep));
        tasks.spawn(lifecycle.clone().supervise("membership", member.run()));
        if let Some(bus) = engine.node_bus() {
            tasks.spawn(lifecycle.clone().supervise("replies", replies::run(bus.clone(), replies)));
            tasks.spawn(lifecycle.clone().supervise("presence", presence::run(bus, hub)));
        }
        if let Some((rooms, context)) = rooms {
            tasks.spawn(lifecycle.supervise("rooms", rooms.run(context)));
        }
        Self { engine, tasks }
    }

    /// Sends the last updates to other nodes, ends all tasks and removes this node from the list.
    pub async fn stop(mut self) {
        if self.engine.node_bus().is_some() {
            self.engine.sweep(Now::read());
            sleep(LAST_UPDATES_GRACE).await;
        }
        self.tasks.abort_all();
        // If this fails, the node expires by itself.
        let _ = timeout(DEREGISTER_TIMEOUT, self.engine.shared_store().deregister()).await;
    }
}
