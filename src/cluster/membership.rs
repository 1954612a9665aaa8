//! This node's heartbeat in the shared store, and its polling for revocations and pushed policy, which makes it ready.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::pushed_policy::PolicySync;
use super::revocations;
use crate::auth::{Policy, Revocation};
use crate::broker::connection::registry::Registry;
use crate::broker::{Engine, Now};
use crate::ops::{Lifecycle, Phase};
use crate::protocol::{ErrorCode, Refusal};

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
    /// Makes the gateway ready once it knows the policy in force. Runs until it is dropped. Failed steps are repeated at the
    /// next poll.
    pub async fn run(self) {
        let shared = self.engine.shared_store();
        let since = Now::read().wall;
        let mut log = LogReader::default();
        loop {
            let has_read = log.read(&self).await.is_ok();
            let has_synced = self.policy_sync.sync().await.is_ok();
            if has_read && has_synced {
                self.lifecycle.enter(Phase::Ready);
            }
            if self.engine.node_bus().is_none() {
                // No other nodes: nothing is left to do.
                std::future::pending::<()>().await;
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
}

/// Reads the log of revocations.
#[derive(Default)]
struct LogReader {
    position: String,
    /// The connection to the store by which the position was read. After another one, the store may have lost entries.
    connection: Option<u64>,
    is_full: bool,
}

impl LogReader {
    /// Puts new revocations in force, up to the end of the log. After a new connection it reads the whole log, and appends
    /// what the store has lost.
    async fn read(&mut self, member: &Member) -> Result<(), Refusal> {
        let shared = member.engine.shared_store();
        let connection = shared.connection_epoch()?;
        if self.connection == Some(connection) {
            return self.read_to_end(member, |_| ()).await;
        }
        let known = member.policy.revocations().added();
        let mut found = HashSet::new();
        self.position.clear();
        self.read_to_end(member, |revocation| {
            found.insert(revocation);
        })
        .await?;
        for lost in known.iter().filter(|revocation| !found.contains(revocation)) {
            revocations::share(&*member.engine, &member.policy, lost).await?;
        }
        self.connection = Some(connection);
        Ok(())
    }

    async fn read_to_end(&mut self, member: &Member, mut on_revocation: impl FnMut(Revocation)) -> Result<(), Refusal> {
        loop {
            let entries = member.engine.shared_store().read_log(&self.position).await?;
            if entries.is_empty() {
                self.is_full = false;
                return Ok(());
            }
            for (position, entry) in entries {
                match revocations::apply(&member.policy, &entry) {
                    Ok(revocation) => revocation.into_iter().for_each(&mut on_revocation),
                    Err(error) => {
                        if !std::mem::replace(&mut self.is_full, true) {
                            tracing::error!(%error, "revocation of the log not applied, retrying");
                        }
                        return Err(Refusal::new(ErrorCode::LimitReached, error.to_string()));
                    }
                }
                self.position = position;
            }
            member.registry.wake_all();
        }
    }
}
