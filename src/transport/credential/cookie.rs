//! The session cookie as a credential: when it counts, and when the browser is told to forget it.

use std::sync::Arc;

use http::{HeaderName, header};
use warp::reply::Response;

use crate::auth::login::{Active, LoginSession};
use crate::broker::{Now, Principal};
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::http::request::RequestContext;
use crate::transport::login::cookies;
use crate::transport::login::cookies::session_name;
use crate::transport::state::AppState;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who the cookie of a request speaks for; `None` without one. To be asked when the request has no other credential.
pub fn principal(app: &AppState, call: &RequestContext) -> Result<Option<Arc<Principal>>, Refusal> {
    let Some(login) = app.login.active() else { return Ok(None) };
    if cookies::named(call, session_name(&login)).next().is_none() || !counts(&login, call)? {
        return Ok(None);
    }
    let refused = Refusal::new(ErrorCode::Unauthenticated, "the session is over; log in again");
    open(app, &login, call).map(|(_, principal)| Some(Arc::new(principal))).ok_or(refused)
}

/// The session of the request, if it is alive.
pub fn open(app: &AppState, login: &Active, call: &RequestContext) -> Option<(LoginSession, Principal)> {
    let mut values = cookies::named(call, session_name(login));
    // Of several, one was planted; nobody can tell which.
    let (sealed, None) = (values.next()?, values.next()) else { return None };
    let session = LoginSession::open(login, sealed, Now::read().unix()).ok()?;
    if !session.answers(&app.policy.rules().load().claims()) {
        return None;
    }
    let principal = session.principal();
    app.policy.check(&principal).ok()?;
    Some((session, principal))
}

/// Whether the cookie speaks for the person, and not for a foreign page that their browser is on.
///
/// A browser sends it along with what any page asks for, so the page must be one of ours. With `Origin` that is known.
/// Without it only reading can be meant (browsers send it with everything else), and of that an upgrade is refused:
/// what comes over it can be read by the page.
fn counts(login: &Active, call: &RequestContext) -> Result<bool, Refusal> {
    if call.headers().contains_key(header::ORIGIN) {
        return if is_from_our_page(login, call) { Ok(true) } else { Err(ErrorCode::OriginForbidden.into()) };
    }
    if call.headers().contains_key(header::UPGRADE) {
        return Err(Refusal::new(ErrorCode::OriginForbidden, "a cookie counts only with an Origin"));
    }
    let is_reading = matches!(call.method(), "GET" | "HEAD");
    let site = call.header(SEC_FETCH_SITE);
    let is_ours = match site {
        Some(site) => matches!(site, "same-origin" | "none"),
        // No browser of today; its answer can be read by nobody but the client itself.
        None => !call.headers().contains_key(SEC_FETCH_SITE),
    };
    Ok(is_reading && is_ours)
}

/// Whether `Origin` is the gateway's own URL or one on the listener's list; stricter than for other credentials, for
/// a page of the same name without TLS must not use the session.
pub fn is_from_our_page(login: &Active, call: &RequestContext) -> bool {
    let listed = &call.peer().listener.origins;
    call.header(header::ORIGIN)
        .is_some_and(|origin| origin == login.url() || listed.iter().any(|known| known == origin))
}

/// Makes the browser forget a session that is over, with whatever answer it gets.
pub fn clear_if_dead(app: &AppState, call: &RequestContext, response: &mut Response) {
    let Some(login) = app.login.active() else { return };
    let name = session_name(&login);
    let is_set_anyway =
        response.headers().get_all(header::SET_COOKIE).iter().any(|value| {
            value.as_bytes().starts_with(name.as_bytes()) && value.as_bytes().get(name.len()) == Some(&b'=')
        });
    if is_set_anyway || cookies::named(call, name).next().is_none() || open(app, &login, call).is_some() {
        return;
    }
    if let Some(cleared) = cookies::clear(&login, name) {
        response.headers_mut().append(header::SET_COOKIE, cleared);
    }
}
