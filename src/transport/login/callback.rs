//! `GET /v1/auth/callback`: completes a login when the browser returns from its provider.

use std::sync::Arc;

use http::header;
use warp::reply::Response;

use super::query::Parameters;
use super::{active, page};
use crate::auth::login::{Active, Endpoints, IdToken, LoginError, LoginSession, Pending, ProviderConfig};
use crate::broker::Now;
use crate::ops::log::folded;
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::credential::cookie;
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;

pub async fn callback(app: Arc<AppState>, call: RequestContext) -> Result<Response, Refusal> {
    let login = active(&app)?;
    let Ok(parameters) = Parameters::parse(call.query().unwrap_or_default().as_bytes()) else {
        return Ok(page::failed(&login, ErrorCode::Malformed, None));
    };
    let state = parameters.get("state").unwrap_or_default();
    let name = cookie::pending_name(&login, state);
    let mut response = match open_pending(&app, &login, &call, state, name.as_deref()) {
        Err(error) => refused(&login, error, None),
        Ok(pending) => match log_in(&app, &login, &pending, &parameters).await {
            Ok(sealed) => {
                let mut response = page::redirect(&login, pending.return_to.as_str());
                response.headers_mut().extend(sealed.map(|value| (header::SET_COOKIE, value)));
                response
            }
            Err(error) => refused(&login, error, Some(&pending)),
        },
    };
    // The pending login is used up, with success or without.
    let pending_cookie = name.filter(|name| cookie::named(&call, name).next().is_some());
    let cleared = pending_cookie.and_then(|name| cookie::clear(&login, &name));
    response.headers_mut().extend(cleared.map(|value| (header::SET_COOKIE, value)));
    Ok(response)
}

fn refused(login: &Active, error: LoginError, pending: Option<&Pending>) -> Response {
    folded!(WARN, error, "login refused", %error, issuer = pending.map(|pending| pending.issuer.as_str()));
    page::failed(login, error.code(), pending.map(|pending| &pending.return_to))
}

/// The pending login: begun in this browser, not expired, and not completed before.
fn open_pending(
    app: &AppState,
    login: &Active,
    call: &RequestContext,
    state: &str,
    name: Option<&str>,
) -> Result<Pending, LoginError> {
    let name = name.ok_or(LoginError::NotPending("invalid state"))?;
    let sealed = cookie::named(call, name).next().ok_or(LoginError::NotPending("no cookie for this state"))?;
    let now = Now::read().unix();
    let pending = Pending::open(login, sealed, state, now)?;
    match app.login.is_first_return(&pending, now) {
        true => Ok(pending),
        false => Err(LoginError::NotPending("the login was completed before")),
    }
}

/// Completes the login. Returns the cookie of the new session.
async fn log_in(
    app: &AppState,
    login: &Active,
    pending: &Pending,
    parameters: &Parameters,
) -> Result<Option<http::HeaderValue>, LoginError> {
    let provider =
        login.provider_of(&pending.issuer).ok_or(LoginError::Untrusted("the provider is no longer configured"))?;
    let issuers = app.policy.issuers();
    let endpoints = Endpoints::of(&issuers, &provider.issuer).await?;
    check_issuer(provider, parameters.get("iss"), endpoints.sends_iss)?;
    if let Some(error) = parameters.get("error") {
        return Err(LoginError::Refused(known_error(error)));
    }
    let code = parameters
        .get("code")
        .filter(|code| !code.is_empty())
        .ok_or(LoginError::Untrusted("the response has no code"))?;
    let fetcher = app.fetcher.as_deref().ok_or(LoginError::Unavailable("outgoing requests are disabled (egress)"))?;
    let redeemed = login.redeem(provider, &endpoints, fetcher, pending, code).await?;
    let now = Now::read().unix();
    let token = IdToken::verify(&issuers, provider, pending, &redeemed, now).await?;
    let rules = app.policy.rules().load();
    let session = LoginSession::begin(login, provider, token, redeemed.scopes, &rules, now);
    let sealed = session.seal(login)?;
    match app.login.complete(pending, app.engine.shared_store()).await {
        Ok(true) => {}
        Ok(false) => return Err(LoginError::NotPending("the login was completed before")),
        Err(_) => return Err(LoginError::Unavailable("the engine is unavailable")),
    }
    app.policy.check(&session.principal()).map_err(|_| LoginError::Refused("revoked here"))?;
    folded!(INFO, session.subject, "logged in", provider = provider.name, subject = session.subject);
    Ok(cookie::set_session(login, &sealed))
}

/// Checks that the response comes from the provider of the pending login (RFC 9207), before the code is sent there.
fn check_issuer(provider: &ProviderConfig, iss: Option<&str>, is_announced: bool) -> Result<(), LoginError> {
    match iss {
        Some(issuer) if issuer == provider.issuer => Ok(()),
        Some(_) => Err(LoginError::Untrusted("the response is of another issuer")),
        None if is_announced => Err(LoginError::Untrusted("the response names no issuer")),
        None => Ok(()),
    }
}

/// The provider's error as a known constant, because the URL may contain any text.
fn known_error(error: &str) -> &'static str {
    const KNOWN: [&str; 11] = [
        "access_denied",
        "invalid_request",
        "unauthorized_client",
        "unsupported_response_type",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        "login_required",
        "consent_required",
        "interaction_required",
        "account_selection_required",
    ];
    KNOWN.into_iter().find(|known| *known == error).unwrap_or("an unknown error")
}
