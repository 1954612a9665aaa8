//! This node's heartbeat in the shared store, and its polling for revocations and pushed policy, which makes it ready.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::pushed_policy::PolicySync;
use super::revocations;
use crate::auth::Policy;
use crate::broker::connection::registry::Registry;
use crate::broker::{Engine, Now};
use crate::ops::{Lifecycle, Phase};
use crate::protocol::Refusal;

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Interval until the policy in force is known: nothing is accepted before.
const FIRST_POLL_INTERVAL: Duration = POLL_INTERVAL.checked_div(10).unwrap();

pub struct Member {
    pub engine: Arc<dyn Engine>,
    pub policy: Arc<Policy>,
    pub policy_sync: Arc<PolicySync>,
    pub registry: Arc<Registry>,
    pub lifecycle: Arc<Lifecycle>,
}

impl Member {
    /// Makes the gateway ready once it knows the policy in force. Runs until it is dropped; returns then without other
    /// nodes. Failed steps are repeated at the next poll.
    pub async fn run(self) {
        let shared = self.engine.shared_store();
        let since = Now::read().wall;
        let mut log_position = String::new();
        loop {
            let has_read = self.read_revocations(&mut log_position).await.is_ok();
            let has_synced = self.policy_sync.sync().await.is_ok();
            if has_read && has_synced {
                self.lifecycle.enter(Phase::Ready);
            }
            if self.engine.node_bus().is_none() {
                return;
            }
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
            let is_starting = self.lifecycle.phase() == Phase::Starting;
            tokio::time::sleep(if is_starting { FIRST_POLL_INTERVAL } else { POLL_INTERVAL }).await;
        }
    }

    /// Puts the revocations of the log after a position in force, up to its end.
    async fn read_revocations(&self, position: &mut String) -> Result<(), Refusal> {
        let shared = self.engine.shared_store();
        loop {
            let entries = shared.read_log(position).await?;
            if entries.is_empty() {
                return Ok(());
            }
            for (entry_position, entry) in entries {
                revocations::apply(&self.policy, &entry)?;
                *position = entry_position;
            }
            self.registry.wake_all();
        }
    }
}
