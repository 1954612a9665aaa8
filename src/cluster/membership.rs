//! What one node is told and all must know: revocations and pushes, over the memory that the nodes share. And which nodes
//! there are.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::auth::Revocation;
use crate::auth::revocation::{RevocationError, WrittenRevocation};
use crate::broker::Now;
use crate::ops::Phase;
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::control;
use crate::transport::state::AppState;

/// How often a node asks for what others were told.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Tokens without a longest lifetime are taken to live so long, and no revocation is forgotten earlier.
const MIN_REVOCATION_TTL: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_REVOCATION_TTL: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Lets all other nodes know of a revocation; those that run have it within a second.
pub async fn share_revocation(app: &AppState, revocation: &Revocation) -> Result<(), Refusal> {
    let Some(shared) = app.engine.shared_store() else { return Ok(()) };
    let written = serde_json::to_vec(&WrittenRevocation::from(revocation.clone()));
    let lives = Duration::from_secs(app.policy.revocations().lifetime()).clamp(MIN_REVOCATION_TTL, MAX_REVOCATION_TTL);
    shared.append_log(&written.map_err(|_| Refusal::from(ErrorCode::Internal))?, lives).await
}

/// Takes over what other nodes were told, from the oldest that is remembered on, and says that this node is there.
/// Runs until it is dropped; returns at once where nothing is shared.
pub async fn run(app: Arc<AppState>) {
    let Some(shared) = app.engine.shared_store() else { return };
    let since = Now::read().wall;
    let (mut after, mut is_whole) = (String::new(), false);
    loop {
        // What fails now comes next time.
        if let Ok(told) = shared.read_log(&after).await
            && let Some((last, _)) = told.last()
        {
            after.clone_from(last);
            told.iter().for_each(|(_, word)| apply_revocation(&app, word));
            app.registry.wake_all();
        }
        // The same.
        is_whole |= control::sync(&app).await.is_ok();
        let state = match app.lifecycle.phase() {
            Phase::Ready => "ready",
            phase => phase.unready_reason().unwrap_or("ready"),
        };
        let about = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "state": app.engine.unavailable_reason().filter(|_| state == "ready").unwrap_or(state),
            "connections": app.registry.clients(),
            "since": format!("{since:.0}"),
        });
        let _ = shared.heartbeat(about.to_string().as_bytes()).await;
        // One that begins is behind all others.
        tokio::time::sleep(if is_whole { POLL_INTERVAL } else { POLL_INTERVAL / 10 }).await;
    }
}

fn apply_revocation(app: &AppState, word: &[u8]) {
    let now = Now::read().unix();
    let written = serde_json::from_slice::<WrittenRevocation>(word).ok();
    let Some(revocation) = written.and_then(|written| written.read(Some(now)).ok()) else {
        tracing::warn!("a revocation of another node cannot be read");
        return;
    };
    match app.policy.revoke(revocation, now) {
        Ok(()) => {}
        Err(error @ RevocationError::Full(_)) => {
            tracing::error!(%error, "a revocation of another node is not in force")
        }
        Err(error) => tracing::warn!(%error, "a revocation of another node is not in force"),
    }
}
