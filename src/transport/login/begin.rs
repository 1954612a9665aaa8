//! `GET /v1/auth/login`: redirects the browser to its identity provider.

use std::sync::Arc;

use http::header;
use warp::reply::Response;

use super::query::Parameters;
use super::{active, page};
use crate::auth::login::{Active, Endpoints, LoginError, ReturnTo};
use crate::broker::Now;
use crate::ops::log::folded;
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::credential::cookie;
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;

/// Pending logins of one browser. Beyond, the older ones are dropped, so that a page cannot fill the browser's request
/// head with cookies.
const MAX_PENDING_LOGINS: usize = 5;

pub async fn begin(app: Arc<AppState>, call: RequestContext) -> Result<Response, Refusal> {
    let login = active(&app)?;
    let Ok(parameters) = Parameters::parse(call.query().unwrap_or_default().as_bytes()) else {
        return Ok(page::failed(&login, ErrorCode::Malformed, None));
    };
    let return_to = match parameters.get("return_to") {
        None => ReturnTo::home(login.path()),
        Some(path) => match ReturnTo::parse(path, login.path()) {
            Some(return_to) => return_to,
            None => return Ok(page::failed(&login, ErrorCode::Malformed, None)),
        },
    };
    let redirect = redirect_to_provider(&app, &login, &call, parameters.get("provider"), &return_to).await;
    Ok(redirect.unwrap_or_else(|error| {
        folded!(WARN, error, "cannot begin login", %error);
        page::failed(&login, error.code(), Some(&return_to))
    }))
}

async fn redirect_to_provider(
    app: &AppState,
    login: &Active,
    call: &RequestContext,
    provider: Option<&str>,
    return_to: &ReturnTo,
) -> Result<Response, LoginError> {
    let provider = match (provider, login.providers()) {
        (Some(name), _) => match login.provider_named(name) {
            Some(provider) => provider,
            None => return Ok(page::failed(login, ErrorCode::Malformed, None)),
        },
        (None, [only]) => only,
        (None, _) => return Ok(page::choice(login, return_to)),
    };
    let endpoints = Endpoints::of(&app.policy.issuers(), &provider.issuer).await?;
    let (url, pending) = login.begin(provider, &endpoints, return_to.clone())?;
    let sealed = pending.seal(login, Now::read().unix())?;
    let name = cookie::pending_name(login, pending.state()).ok_or(LoginError::NoRandomness)?;
    let mut response = page::redirect(login, &url);
    let others: Vec<_> = cookie::all(call)
        .map(|(name, _)| name)
        .filter(|name| name.starts_with(cookie::pending_prefix(login)))
        .collect();
    let dropped = if others.len() >= MAX_PENDING_LOGINS { others.as_slice() } else { &[] };
    let set =
        dropped.iter().filter_map(|name| cookie::clear(login, name)).chain(cookie::set_pending(login, &name, &sealed));
    response.headers_mut().extend(set.map(|value| (header::SET_COOKIE, value)));
    Ok(response)
}
