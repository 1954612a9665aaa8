//! `GET /v1/auth/login`: sends the browser to its identity provider.

use std::sync::Arc;

use http::header;
use warp::reply::Response;

use super::query::Parameters;
use super::{active, cookies, page};
use crate::auth::login::{Active, Endpoints, LoginError, ReturnTo};
use crate::broker::Now;
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;

/// Logins that one browser may have begun at once; beyond, the others are forgotten, so that a page that begins them
/// by the hundred does not fill the browser's request head.
const MAX_PENDING: usize = 5;

pub async fn begin(app: Arc<AppState>, call: RequestContext) -> Result<Response, Refusal> {
    let login = active(&app)?;
    let Ok(parameters) = Parameters::parse(call.query().unwrap_or_default().as_bytes()) else {
        return Ok(page::failed(ErrorCode::Malformed, None));
    };
    let return_to = match parameters.get("return_to") {
        None => ReturnTo::default(),
        Some(path) => match ReturnTo::parse(path) {
            Some(return_to) => return_to,
            None => return Ok(page::failed(ErrorCode::Malformed, None)),
        },
    };
    let begun = send_away(&app, &login, &call, parameters.get("provider"), &return_to).await;
    Ok(begun.unwrap_or_else(|error| {
        tracing::warn!(%error, "a login does not begin");
        page::failed(error.code(), Some(&return_to))
    }))
}

async fn send_away(
    app: &AppState,
    login: &Active,
    call: &RequestContext,
    provider: Option<&str>,
    return_to: &ReturnTo,
) -> Result<Response, LoginError> {
    let provider = match (provider, login.providers()) {
        (Some(name), _) => match login.provider_named(name) {
            Some(provider) => provider,
            None => return Ok(page::failed(ErrorCode::Malformed, None)),
        },
        (None, [only]) => only,
        (None, several) => return Ok(page::choice(several, return_to)),
    };
    let endpoints = Endpoints::of(&app.policy.issuers(), &provider.issuer).await?;
    let (url, pending) = login.begin(provider, &endpoints, return_to.clone())?;
    let sealed = pending.seal(login, Now::read().unix())?;
    let name = cookies::pending_name(login, pending.state()).ok_or(LoginError::NoRandomness)?;
    let mut response = page::redirect(&url);
    let others: Vec<_> = cookies::all(call)
        .map(|(name, _)| name)
        .filter(|name| name.starts_with(cookies::pending_prefix(login)))
        .collect();
    let forgotten = if others.len() >= MAX_PENDING { others.as_slice() } else { &[] };
    let set = forgotten
        .iter()
        .filter_map(|name| cookies::clear(login, name))
        .chain(cookies::set_pending(login, &name, &sealed));
    response.headers_mut().extend(set.map(|value| (header::SET_COOKIE, value)));
    Ok(response)
}
