//! This node's heartbeat in the shared store, and its polling for revocations and pushed policy.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::pushed_policy::PolicySync;
use super::revocations;
use crate::auth::Policy;
use crate::broker::connection::registry::Registry;
use crate::broker::{Engine, Now};
use crate::ops::{Lifecycle, Phase};

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Interval until the pushed policy was read once: a new node is behind all others.
const FIRST_POLL_INTERVAL: Duration = POLL_INTERVAL.checked_div(10).unwrap();

pub struct Member {
    pub engine: Arc<dyn Engine>,
    pub policy: Arc<Policy>,
    pub policy_sync: Arc<PolicySync>,
    pub registry: Arc<Registry>,
    pub lifecycle: Arc<Lifecycle>,
}

impl Member {
    /// Runs until it is dropped; returns at once without other nodes. Failed steps are repeated at the next poll.
    pub async fn run(self) {
        if self.engine.node_bus().is_none() {
            return;
        }
        let shared = self.engine.shared_store();
        let since = Now::read().wall;
        let (mut last_position, mut has_synced) = (String::new(), false);
        loop {
            if let Ok(entries) = shared.read_log(&last_position).await
                && let Some((last, _)) = entries.last()
            {
                last_position.clone_from(last);
                entries.iter().for_each(|(_, entry)| revocations::apply(&self.policy, entry));
                self.registry.wake_all();
            }
            has_synced |= self.policy_sync.sync().await.is_ok();
            let state = match self.lifecycle.phase() {
                Phase::Ready => "ready",
                phase => phase.unready_reason().unwrap_or("ready"),
            };
            let status = json!({
                "version": env!("CARGO_PKG_VERSION"),
                "state": self.engine.unavailable_reason().filter(|_| state == "ready").unwrap_or(state),
                "connections": self.registry.clients(),
                "since": format!("{since:.0}"),
            });
            let _ = shared.heartbeat(status.to_string().as_bytes()).await;
            tokio::time::sleep(if has_synced { POLL_INTERVAL } else { FIRST_POLL_INTERVAL }).await;
        }
    }
}
