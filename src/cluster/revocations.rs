//! Revocations in the shared store's log: each is in force on every node within a second, and after a restart.

use std::time::Duration;

use serde_json::Value;

use crate::auth::Policy;
use crate::auth::revocation::{MAX_AHEAD_SECS, Revocation, RevocationError, WrittenRevocation};
use crate::broker::{Engine, Now};
use crate::ops::log::folded;
use crate::protocol::{ErrorCode, Refusal};

/// Shortest time for which the log keeps a revocation: the limit of tokens may rise.
const MIN_REVOCATION_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Appends a revocation to the log, from which other nodes and later processes read it.
pub async fn share(engine: &dyn Engine, policy: &Policy, revocation: &Revocation) -> Result<(), Refusal> {
    let name =
        Value::from([&*revocation.issuer, revocation.what.key().0, revocation.what.key().1].as_slice()).to_string();
    let written = serde_json::to_vec(&WrittenRevocation::from(revocation.clone()));
    // `before` may be a minute ahead.
    let ttl = Duration::from_secs(policy.revocations().lifetime().saturating_add(2 * MAX_AHEAD_SECS));
    let written = written.map_err(|_| Refusal::from(ErrorCode::Internal))?;
    engine.shared_store().append_log(&name, &written, ttl.max(MIN_REVOCATION_TTL)).await
}

/// Puts a log entry of another node or an earlier process in force, and returns its revocation. An error means that there
/// is no room for it, and that it is to be applied again: a node must not skip a revocation that is in force.
pub fn apply(policy: &Policy, entry: &[u8]) -> Result<Option<Revocation>, RevocationError> {
    // No node wrote it.
    if entry.is_empty() {
        return Ok(None);
    }
    let now = Now::read().unix();
    let written = serde_json::from_slice::<WrittenRevocation>(entry).ok();
    let Some(revocation) = written.and_then(|written| written.read(None).ok()) else {
        folded!(WARN, "", "cannot decode revocation of the log");
        return Ok(None);
    };
    policy.revoke_again(revocation.clone(), now)?;
    Ok(Some(revocation))
}
