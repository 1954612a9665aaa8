//! `GET /v1/auth/session`: the principal of the request, and when it expires.

use std::sync::Arc;

use serde_json::json;
use warp::Reply;
use warp::reply::Response;

use super::active;
use crate::broker::channel::session::rfc3339;
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::credential;
use crate::transport::http::origin;
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;

pub async fn session(app: Arc<AppState>, call: RequestContext) -> Result<Response, Refusal> {
    origin::check(&app, &call)?;
    let principal = credential::principal(&app, &call).await?;
    let principal = principal.ok_or(Refusal::new(ErrorCode::Unauthenticated, "not logged in"))?;
    let provider =
        active(&app).ok().and_then(|login| login.provider_of(&principal.issuer).map(|provider| provider.name.clone()));
    let session = json!({
        "principal": &*principal.subject,
        "issuer": &*principal.issuer,
        "provider": provider,
        "expires": rfc3339(principal.expires),
        "method": if call.bearer().is_some() { "bearer" } else { "cookie" },
        "scopes": principal.scopes,
        "groups": principal.groups,
    });
    Ok(warp::reply::json(&session).into_response())
}
