//! Turns the credential of a request or message into a principal.

pub mod cookie;
pub mod issue_ticket;
pub mod policy_watch;
pub mod tickets;

use std::sync::Arc;
use std::time::Duration;

use super::http::request::RequestContext;
use super::state::AppState;
use crate::broker::{Now, Principal};
use crate::ops::log::folded;
use crate::protocol::{ErrorCode, Refusal};

/// When a token may be tried again whose issuer's keys are unavailable: after the next fetch.
const ISSUER_RETRY_AFTER: Duration = Duration::from_secs(5);

/// The principal of a request; `None` without a credential. A bad credential is refused, never ignored.
///
/// A token or ticket takes precedence over the cookie that the browser adds. Called after the check of `Origin`.
pub async fn principal(app: &AppState, call: &RequestContext) -> Result<Option<Arc<Principal>>, Refusal> {
    match call.bearer() {
        Some(token) => verify(app, token).await.map(Some),
        None => match ticket_principal(app, call).await? {
            Some(principal) => Ok(Some(principal)),
            None => cookie::principal(app, call),
        },
    }
}

/// Whether a request carries a credential that is checked before the request is answered. A cookie may be a stale one.
pub fn is_presented(call: &RequestContext) -> bool {
    let has = |name| call.headers().contains_key(name);
    has("authorization") || has("signature-input") || tickets_in(call).next().is_some()
}

fn tickets_in(call: &RequestContext) -> impl Iterator<Item = &str> {
    call.query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("ticket="))
}

/// The principal of the request's `?ticket=`; `None` if it has none.
async fn ticket_principal(app: &AppState, call: &RequestContext) -> Result<Option<Arc<Principal>>, Refusal> {
    let mut values = tickets_in(call);
    let Some(ticket) = values.next() else { return Ok(None) };
    let refused = || Refusal::new(ErrorCode::Unauthenticated, "the ticket is not valid here");
    if values.next().is_some() {
        return Err(refused());
    }
    let now = Now::read();
    let purpose = call.endpoint().and_then(|endpoint| endpoint.ticket).ok_or_else(refused)?;
    let principal = app.tickets.redeem(app.engine.shared_store(), ticket, purpose).await?.ok_or_else(refused)?;
    let is_alive = now.unix() < principal.expires && app.policy.check(&principal).is_ok();
    if is_alive { Ok(Some(principal)) } else { Err(refused()) }
}

/// The principal of a token.
pub async fn verify(app: &AppState, token: &str) -> Result<Arc<Principal>, Refusal> {
    let refused = |cause: &dyn std::fmt::Display| {
        folded!(INFO, cause, "token refused", %cause);
        // The client receives a code, never the cause.
        Refusal::new(ErrorCode::Unauthenticated, "the token is not valid here")
    };
    let principal = match app.policy.issuers().admit(token, Now::read().unix()).await {
        Ok(principal) => principal,
        Err(cause) if cause.is_temporary() => {
            folded!(INFO, cause, "token cannot be verified", %cause);
            let refusal = Refusal::new(ErrorCode::IssuerUnavailable, "the keys of the token's issuer are unavailable");
            return Err(refusal.retry_after(ISSUER_RETRY_AFTER));
        }
        Err(cause) => return Err(refused(&cause)),
    };
    app.policy.check(&principal).map_err(|_| refused(&"revoked"))?;
    Ok(principal)
}
