//! `GET /v1/auth/callback`: the browser comes back from its provider, and is logged in or told why not.

use std::sync::Arc;

use http::header;
use warp::reply::Response;

use super::query::Parameters;
use super::{active, cookies, page};
use crate::auth::login::{Active, Endpoints, IdToken, LoginError, LoginSession, Pending, ProviderConfig};
use crate::broker::Now;
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;

pub async fn callback(app: Arc<AppState>, call: RequestContext) -> Result<Response, Refusal> {
    let login = active(&app)?;
    let Ok(parameters) = Parameters::parse(call.query().unwrap_or_default().as_bytes()) else {
        return Ok(page::failed(ErrorCode::Malformed, None));
    };
    let state = parameters.get("state").unwrap_or_default();
    let name = cookies::pending_name(&login, state);
    let mut response = match returned(&app, &login, &call, state, name.as_deref()) {
        Err(error) => refused(error, None),
        Ok(pending) => match log_in(&app, &login, &pending, &parameters).await {
            Ok(sealed) => {
                let mut response = page::redirect(pending.return_to.as_str());
                response.headers_mut().extend(sealed.map(|value| (header::SET_COOKIE, value)));
                response
            }
            Err(error) => refused(error, Some(&pending)),
        },
    };
    // It has come back, whatever became of it.
    let brought = name.filter(|name| cookies::named(&call, name).next().is_some());
    let cleared = brought.and_then(|name| cookies::clear(&login, &name));
    response.headers_mut().extend(cleared.map(|value| (header::SET_COOKIE, value)));
    Ok(response)
}

fn refused(error: LoginError, pending: Option<&Pending>) -> Response {
    tracing::warn!(%error, issuer = pending.map(|pending| pending.issuer.as_str()), "a login is refused");
    page::failed(error.code(), pending.map(|pending| &pending.return_to))
}

/// The login that comes back: begun in this browser, not too long ago, and not back before.
fn returned(
    app: &AppState,
    login: &Active,
    call: &RequestContext,
    state: &str,
    name: Option<&str>,
) -> Result<Pending, LoginError> {
    let name = name.ok_or(LoginError::NotPending("no state of ours"))?;
    let sealed = cookies::named(call, name).next().ok_or(LoginError::NotPending("no cookie for this state"))?;
    let now = Now::read().unix();
    let pending = Pending::open(login, sealed, state, now)?;
    match app.login.is_first_return(&pending, now) {
        true => Ok(pending),
        false => Err(LoginError::NotPending("it came back before")),
    }
}

/// The cookie of the new session.
async fn log_in(
    app: &AppState,
    login: &Active,
    pending: &Pending,
    parameters: &Parameters,
) -> Result<Option<http::HeaderValue>, LoginError> {
    let provider = login.provider_of(&pending.issuer).ok_or(LoginError::Untrusted("it is no longer configured"))?;
    let issuers = app.policy.issuers();
    let endpoints = Endpoints::of(&issuers, &provider.issuer).await?;
    check_issuer(provider, parameters.get("iss"), endpoints.says_iss)?;
    if let Some(error) = parameters.get("error") {
        return Err(LoginError::Refused(known_error(error)));
    }
    let code = parameters.get("code").filter(|code| !code.is_empty()).ok_or(LoginError::Untrusted("it has no code"))?;
    let fetcher = app.fetcher.as_deref().ok_or(LoginError::Unavailable("there is no way out"))?;
    let redeemed = login.redeem(provider, &endpoints, fetcher, pending, code).await?;
    let now = Now::read().unix();
    let token = IdToken::verify(&issuers, provider, pending, &redeemed, now).await?;
    let rules = app.policy.rules().load();
    let session = LoginSession::begin(login, provider, token, redeemed.scopes, &rules.claims(), now);
    let sealed = session.seal(login)?;
    app.policy.check(&session.principal()).map_err(|_| LoginError::Refused("revoked here"))?;
    tracing::info!(provider = provider.name, subject = session.subject, "logged in");
    Ok(cookies::set_session(login, &sealed))
}

/// The answer is the one of the provider that was asked (RFC 9207): the mix-up of two is noticed before a code goes out.
fn check_issuer(provider: &ProviderConfig, said: Option<&str>, is_announced: bool) -> Result<(), LoginError> {
    match said {
        Some(issuer) if issuer == provider.issuer => Ok(()),
        Some(_) => Err(LoginError::Untrusted("it comes from another issuer")),
        None if is_announced => Err(LoginError::Untrusted("it does not say its issuer")),
        None => Ok(()),
    }
}

/// The error as a word of our own: what stands in a URL can be anything.
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
