//! Who is calling: the one place that turns the credential of a request, or of a message, into a principal.

pub mod cookie;
pub mod policy_watch;
pub mod tickets;

use std::sync::Arc;

use super::http::request::RequestContext;
use super::state::AppState;
use crate::broker::{Now, Principal};
use crate::protocol::{ErrorCode, Refusal};

/// Who a request speaks for; `None` if it brings no credential. A bad one is refused, never passed over. Of several,
/// what the client says itself counts before the cookie that its browser sends along. Comes after the Origin check.
pub async fn principal(app: &AppState, call: &RequestContext) -> Result<Option<Arc<Principal>>, Refusal> {
    match call.bearer() {
        Some(token) => verify(app, token).await.map(Some),
        None => match tickets::principal(app, call).await? {
            Some(principal) => Ok(Some(principal)),
            None => cookie::principal(app, call),
        },
    }
}

/// Who a token speaks for.
pub async fn verify(app: &AppState, token: &str) -> Result<Arc<Principal>, Refusal> {
    let refused = |cause: &dyn std::fmt::Display| {
        tracing::info!(%cause, "token refused");
        // The peer is told a code, never a cause.
        Refusal::new(ErrorCode::Unauthenticated, "the token is not valid here")
    };
    let admitted = app.policy.issuers().admit(token, Now::read().unix()).await;
    let principal = admitted.map_err(|error| refused(&error))?;
    app.policy.check(&principal).map_err(|_| refused(&"revoked"))?;
    Ok(principal)
}
