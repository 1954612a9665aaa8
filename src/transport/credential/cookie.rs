//! The cookies of the login: the session cookie as a credential, and setting, finding and clearing cookies (RFC 6265).

use std::sync::Arc;

use http::{HeaderName, HeaderValue, header};
use warp::reply::Response;

use crate::auth::login::{Active, LoginSession, MAX_PENDING_SECS};
use crate::broker::{Now, Principal};
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The principal of the request's session cookie; `None` without one. For requests without another credential.
pub fn principal(app: &AppState, call: &RequestContext) -> Result<Option<Arc<Principal>>, Refusal> {
    let Some(login) = app.login.active() else { return Ok(None) };
    if named(call, session_name(&login)).next().is_none() || !is_usable(&login, call)? {
        return Ok(None);
    }
    let refused = Refusal::new(ErrorCode::Unauthenticated, "the session has ended; log in again");
    open(app, &login, call).map(|(_, principal)| Some(Arc::new(principal))).ok_or(refused)
}

/// Whether the request has the cookie of a session that has not ended.
pub fn is_valid(app: &AppState, call: &RequestContext) -> bool {
    app.login.active().is_some_and(|login| open(app, &login, call).is_some())
}

/// The session of the request, if it is valid.
pub fn open(app: &AppState, login: &Active, call: &RequestContext) -> Option<(LoginSession, Principal)> {
    let mut values = named(call, session_name(login));
    // Of several, one was planted, and it is unknown which.
    let (sealed, None) = (values.next()?, values.next()) else { return None };
    let session = LoginSession::open(login, sealed, Now::read().unix()).ok()?;
    if !session.is_complete(&app.policy.rules().load()) {
        return None;
    }
    let principal = session.principal();
    app.policy.check(&principal).ok()?;
    Some((session, principal))
}

/// Whether the cookie was sent for a page of the gateway, and not for a foreign page in the user's browser.
///
/// A browser adds the cookie to the requests of any page, so the page must be an allowed one. `Origin` shows that.
/// Browsers omit it only from requests that read. Of those an upgrade is refused, because the page could read its
/// messages.
fn is_usable(login: &Active, call: &RequestContext) -> Result<bool, Refusal> {
    if call.headers().contains_key(header::ORIGIN) {
        return if is_from_our_page(login, call) { Ok(true) } else { Err(ErrorCode::OriginForbidden.into()) };
    }
    if call.headers().contains_key(header::UPGRADE) {
        return Err(Refusal::new(ErrorCode::OriginForbidden, "a cookie needs an Origin here"));
    }
    let is_reading = matches!(call.method(), "GET" | "HEAD");
    let site = call.header(SEC_FETCH_SITE);
    let is_ours = match site {
        Some(site) => matches!(site, "same-origin" | "none"),
        // Not a current browser; only the client itself can read the response.
        None => !call.headers().contains_key(SEC_FETCH_SITE),
    };
    Ok(is_reading && is_ours)
}

/// Whether `Origin` is the gateway's own URL or on the listener's list. Stricter than for other credentials: a page of
/// the same host without TLS must not use the session.
pub fn is_from_our_page(login: &Active, call: &RequestContext) -> bool {
    let listed = &call.peer().listener.origins;
    call.header(header::ORIGIN)
        .is_some_and(|origin| origin == login.url() || listed.iter().any(|known| known == origin))
}

/// Clears the cookie of an ended session with any response.
pub fn clear_if_dead(app: &AppState, call: &RequestContext, response: &mut Response) {
    let Some(login) = app.login.active() else { return };
    let name = session_name(&login);
    let is_set_already =
        response.headers().get_all(header::SET_COOKIE).iter().any(|value| {
            value.as_bytes().starts_with(name.as_bytes()) && value.as_bytes().get(name.len()) == Some(&b'=')
        });
    if is_set_already || named(call, name).next().is_none() || open(app, &login, call).is_some() {
        return;
    }
    if let Some(cleared) = clear(&login, name) {
        response.headers_mut().append(header::SET_COOKIE, cleared);
    }
}

/// Characters of the state in the name of a pending login's cookie: enough to keep tabs apart.
const COOKIE_STATE_CHARS: usize = 12;

/// With the prefix `__Host-` a browser accepts the cookie only from this host, over TLS, for all paths. Under a path only
/// `__Secure-` is possible.
pub fn session_name(login: &Active) -> &'static str {
    match (login.is_plain(), login.path()) {
        (true, _) => "lastmile",
        (false, "") => "__Host-lastmile",
        (false, _) => "__Secure-lastmile",
    }
}

/// The cookie of one pending login, so that tabs do not interfere. `None` if the state is not the gateway's.
pub fn pending_name(login: &Active, state: &str) -> Option<String> {
    let head = state.get(..COOKIE_STATE_CHARS)?;
    let is_ours = head.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    is_ours.then(|| format!("{}{head}", pending_prefix(login)))
}

pub fn pending_prefix(login: &Active) -> &'static str {
    match (login.is_plain(), login.path()) {
        (true, _) => "lastmile-login-",
        (false, "") => "__Host-lastmile-login-",
        (false, _) => "__Secure-lastmile-login-",
    }
}

/// Sets the session cookie. Its expiry is also sealed inside.
pub fn set_session(login: &Active, sealed: &str) -> Option<HeaderValue> {
    set(login, session_name(login), sealed, login.session_secs())
}

pub fn set_pending(login: &Active, name: &str, sealed: &str) -> Option<HeaderValue> {
    set(login, name, sealed, MAX_PENDING_SECS)
}

/// Clears a cookie.
pub fn clear(login: &Active, name: &str) -> Option<HeaderValue> {
    set(login, name, "", 0)
}

/// `SameSite=Lax`, because the browser returns from another site.
fn set(login: &Active, name: &str, value: &str, max_age: u64) -> Option<HeaderValue> {
    let secure = if login.is_plain() { "" } else { "; Secure" };
    let path = login.path();
    let text = format!("{name}={value}; Path={path}/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}");
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Every cookie of the request with its name.
pub fn all(call: &RequestContext) -> impl Iterator<Item = (&str, &str)> {
    let headers = call.headers().get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    headers.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

/// The values of this name. A browser has one; another page of a host without TLS may have planted more.
pub fn named<'a>(call: &'a RequestContext, name: &str) -> impl Iterator<Item = &'a str> {
    all(call).filter(move |(known, _)| *known == name).map(|(_, value)| value)
}
