//! Revocations in the shared store's log, so that each one is in force on every node within a second.

use std::time::Duration;

use crate::auth::Policy;
use crate::auth::revocation::{Revocation, RevocationError, WrittenRevocation};
use crate::broker::{Engine, Now};
use crate::protocol::{ErrorCode, Refusal};

/// Bounds of a revocation's lifetime in the log, which is otherwise the longest lifetime of a token.
const MIN_REVOCATION_TTL: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_REVOCATION_TTL: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Appends a revocation to the log. No error where no other node reads it.
pub async fn share(engine: &dyn Engine, policy: &Policy, revocation: &Revocation) -> Result<(), Refusal> {
    let written = serde_json::to_vec(&WrittenRevocation::from(revocation.clone()));
    let ttl = Duration::from_secs(policy.revocations().lifetime()).clamp(MIN_REVOCATION_TTL, MAX_REVOCATION_TTL);
    engine.shared_store().append_log(&written.map_err(|_| Refusal::from(ErrorCode::Internal))?, ttl).await
}

/// Puts a log entry of another node in force. An error means that there is no room for it, and that it is to be applied
/// again: a node must not skip a revocation that is in force.
pub fn apply(policy: &Policy, entry: &[u8]) -> Result<(), Refusal> {
    let now = Now::read().unix();
    let written = serde_json::from_slice::<WrittenRevocation>(entry).ok();
    let Some(revocation) = written.and_then(|written| written.read(Some(now)).ok()) else {
        tracing::warn!("cannot decode revocation from node");
        return Ok(());
    };
    match policy.revoke(revocation, now) {
        Ok(()) => {}
        Err(error @ RevocationError::Full(_)) => {
            tracing::error!(%error, "revocation from node not applied, retrying");
            return Err(Refusal::new(ErrorCode::LimitReached, error.to_string()));
        }
        Err(error) => tracing::warn!(%error, "revocation from node not applied"),
    }
    Ok(())
}
