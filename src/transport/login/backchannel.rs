//! `POST /v1/auth/backchannel-logout`: a provider says that a session, or all of a person, is over
//! (OpenID Connect Back-Channel Logout 1.0).

use std::sync::Arc;

use bytes::Buf;
use futures_util::Stream;
use http::header;
use warp::Reply;
use warp::reply::Response;

use super::active;
use super::query::Parameters;
use crate::auth::login::LogoutToken;
use crate::auth::{Revocation, Revoked};
use crate::broker::Now;
use crate::cluster::membership;
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::http::request::RequestContext;
use crate::transport::publish::read_body;
use crate::transport::state::AppState;

/// A token has at most 8 KiB, and escapes may take room.
const MAX_BODY: usize = 16 * 1024;

pub async fn backchannel(
    app: Arc<AppState>,
    call: RequestContext,
    body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
) -> Result<Response, Refusal> {
    let login = active(&app)?;
    let is_form = call.header(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).map(str::trim);
    if !is_form.is_some_and(|kind| kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")) {
        return Err(Refusal::new(ErrorCode::UnsupportedMediaType, "must be application/x-www-form-urlencoded"));
    }
    let body = read_body(&app, body, MAX_BODY).await?;
    let malformed = || Refusal::new(ErrorCode::Malformed, "one logout_token that is valid here is needed");
    let parameters = Parameters::parse(&body).map_err(|_| malformed())?;
    let token = parameters.get("logout_token").ok_or_else(malformed)?;

    let now = Now::read().unix();
    let issuers = app.policy.issuers();
    let refused = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "a logout token is refused");
        malformed()
    };
    let verified = LogoutToken::verify(&login, &issuers, token, now).await;
    let (provider, LogoutToken { id, subject, session, issued }) = verified.map_err(|error| refused(&error))?;
    if !app.login.is_first_logout(&provider.issuer, &id, now) {
        return Err(refused(&"it was told before"));
    }
    // Section 2.7: with a session that one is meant, otherwise all of the person.
    let what = match (session, subject) {
        (Some(session), _) => Revoked::Session(session.into()),
        (None, Some(subject)) => Revoked::Subject(subject.into()),
        (None, None) => return Err(malformed()),
    };
    let revocation = Revocation { issuer: provider.issuer.as_str().into(), what, before: issued };
    app.revoke(revocation.clone()).map_err(|error| {
        tracing::error!(%error, "a logout of the provider cannot be kept");
        Refusal::from(ErrorCode::LimitReached)
    })?;
    membership::share_revocation(&app, &revocation).await?;
    tracing::info!(provider = provider.name, "the provider logged somebody out");
    Ok(String::new().into_response())
}
