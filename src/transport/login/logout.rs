//! `POST /v1/auth/logout`: ends the session with all its connections, and returns the provider's logout URL.

use std::sync::Arc;

use http::header;
use serde_json::json;
use warp::Reply;
use warp::reply::Response;

use super::{active, page};
use crate::auth::login::{Active, Endpoints, LOGGED_OUT, LoginSession, logout_url};
use crate::auth::{Revocation, Revoked};
use crate::broker::Now;
use crate::cluster::revocations;
use crate::ops::log::folded;
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::credential::cookie;
use crate::transport::http::origin;
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;

pub async fn logout(app: Arc<AppState>, call: RequestContext) -> Result<Response, Refusal> {
    let login = active(&app)?;
    let name = cookie::session_name(&login);
    let has_cookie = cookie::named(&call, name).next().is_some();
    // A page of another origin must not log a user out.
    match has_cookie {
        true if !cookie::is_from_our_page(&login, &call) => return Err(ErrorCode::OriginForbidden.into()),
        true => {}
        false => origin::check(&app, &call)?,
    }
    let session = cookie::open(&app, &login, &call).map(|(session, _)| session);
    let ended = match &session {
        Some(session) => end(&app, session).await,
        None => Ok(()),
    };
    let provider_logout_url = match &session {
        Some(session) => provider_logout_url(&app, &login, session).await,
        None => None,
    };
    let mut response = match (ended, wants_page(&call)) {
        (Err(refusal), _) => crate::transport::http::problem::response(&refusal),
        (Ok(()), true) => {
            let logged_out = || format!("{}{LOGGED_OUT}", login.path());
            page::redirect(&login, &provider_logout_url.unwrap_or_else(logged_out))
        }
        (Ok(()), false) => warp::reply::json(&json!({"logout_url": provider_logout_url})).into_response(),
    };
    response.headers_mut().extend(cookie::clear(&login, name).map(|value| (header::SET_COOKIE, value)));
    Ok(response)
}

/// `GET /v1/auth/logged-out`: the page to which the provider redirects after its logout.
pub async fn logged_out() -> Response {
    page::logged_out()
}

async fn end(app: &AppState, session: &LoginSession) -> Result<(), Refusal> {
    let (LoginSession { issuer, subject, .. }, now) = (session, Now::read().unix());
    let this_one = Revoked::TokenId(session.id.as_str().into());
    let what = app.login.within_share(issuer, Some(subject), this_one, app.policy.revocations(), now);
    let revocation = Revocation { issuer: issuer.as_str().into(), what, before: session.issued.max(now) };
    app.revoke_for_user(revocation.clone()).map_err(|error| {
        folded!(ERROR, "", "cannot revoke session; its cookie is cleared, its connections stay open", %error);
        Refusal::new(ErrorCode::LimitReached, "the cookie is cleared, but the session's connections stay open")
    })?;
    revocations::share(&*app.engine, &app.policy, &revocation).await?;
    folded!(INFO, session.subject, "logged out", issuer = session.issuer, subject = session.subject);
    Ok(())
}

async fn provider_logout_url(app: &AppState, login: &Active, session: &LoginSession) -> Option<String> {
    let provider = login.provider_of(&session.issuer)?;
    let endpoints = Endpoints::of(&app.policy.issuers(), &session.issuer).await.ok()?;
    logout_url(login, provider, endpoints.end_session.as_deref()?)
}

/// Whether a form sent the request, and not a script.
fn wants_page(call: &RequestContext) -> bool {
    call.header(header::ACCEPT).is_some_and(|accept| accept.contains("text/html"))
}
