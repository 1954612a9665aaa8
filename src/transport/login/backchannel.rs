//! `POST /v1/auth/backchannel-logout`: a provider ends one or all sessions of a user
//! (OpenID Connect Back-Channel Logout 1.0).

use std::sync::Arc;

use http::header;
use warp::Reply;
use warp::reply::Response;

use super::active;
use super::query::Parameters;
use crate::auth::login::LogoutToken;
use crate::auth::{Revocation, Revoked};
use crate::broker::Now;
use crate::cluster::revocations;
use crate::ops::log::folded;
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::http::request::{RequestBody, RequestContext};
use crate::transport::publish::read_body;
use crate::transport::state::AppState;

/// Bytes of the form without its token.
const BESIDE_TOKEN_BYTES: usize = 2048;

pub async fn backchannel(
    app: Arc<AppState>,
    call: RequestContext,
    body: impl RequestBody,
) -> Result<Response, Refusal> {
    let login = active(&app)?;
    let is_form = call.header(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).map(str::trim);
    if !is_form.is_some_and(|kind| kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")) {
        return Err(Refusal::new(ErrorCode::UnsupportedMediaType, "must be application/x-www-form-urlencoded"));
    }
    let body = read_body(&app, body, app.limits.max_token_bytes + BESIDE_TOKEN_BYTES).await?;
    let malformed = || Refusal::new(ErrorCode::Malformed, "one valid logout_token is required");
    let parameters = Parameters::parse(&body).map_err(|_| malformed())?;
    let token = parameters.get("logout_token").ok_or_else(malformed)?;

    let now = Now::read().unix();
    let issuers = app.policy.issuers();
    let refused = |error: &dyn std::fmt::Display| {
        folded!(WARN, error, "logout token refused", %error);
        malformed()
    };
    let verified = LogoutToken::verify(&login, &issuers, token, now).await;
    let (provider, LogoutToken { id, subject, session, issued }) = verified.map_err(|error| refused(&error))?;
    // Section 2.7: a session id ends one session; without it all sessions of the subject end.
    let revoked = match (session, subject.as_deref()) {
        (Some(session), _) => Revoked::Session(session.into()),
        (None, Some(subject)) => Revoked::Subject(subject.into()),
        (None, None) => return Err(malformed()),
    };
    let in_force = app.policy.revocations();
    let revoked = app.login.within_share(&provider.issuer, subject.as_deref(), revoked, in_force, now);
    let revocation = Revocation { issuer: provider.issuer.as_str().into(), what: revoked, before: issued };
    app.revoke_for_user(revocation.clone()).map_err(|error| {
        folded!(ERROR, "", "cannot store revocation for the provider's logout", %error);
        Refusal::from(ErrorCode::LimitReached)
    })?;
    revocations::share(&*app.engine, &app.policy, &revocation).await?;
    // Last, so that the provider may repeat a logout that failed. A repeated one ends nothing more.
    let store = app.engine.shared_store();
    if !app.login.is_first_logout(&provider.issuer, &id, now, store).await? {
        return Err(refused(&"the token was used before"));
    }
    folded!(INFO, provider.name, "logged out by the provider", provider = provider.name);
    Ok(String::new().into_response())
}
