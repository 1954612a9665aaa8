//! Turns the credential of a request or message into a principal.

pub mod cookie;
pub mod policy_watch;
pub mod tickets;

use std::sync::Arc;

use super::http::request::RequestContext;
use super::state::AppState;
use crate::broker::{Now, Principal};
use crate::protocol::{ErrorCode, Refusal};

/// The principal of a request; `None` without a credential. A bad credential is refused, never ignored.
///
/// A token or ticket takes precedence over the cookie that the browser adds. Called after the check of `Origin`.
pub async fn principal(app: &AppState, call: &RequestContext) -> Result<Option<Arc<Principal>>, Refusal> {
    match call.bearer() {
        Some(token) => verify(app, token).await.map(Some),
        None => match tickets::principal(app, call).await? {
            Some(principal) => Ok(Some(principal)),
            None => cookie::principal(app, call),
        },
    }
}

/// The principal of a token.
pub async fn verify(app: &AppState, token: &str) -> Result<Arc<Principal>, Refusal> {
    let refused = |cause: &dyn std::fmt::Display| {
        tracing::info!(%cause, "token refused");
        // The client receives a code, never the cause.
        Refusal::new(ErrorCode::Unauthenticated, "the token is not valid here")
    };
    let admitted = app.policy.issuers().admit(token, Now::read().unix()).await;
    let principal = admitted.map_err(|error| refused(&error))?;
    app.policy.check(&principal).map_err(|_| refused(&"revoked"))?;
    Ok(principal)
}
