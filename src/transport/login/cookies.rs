//! The cookies of the login: their names, their attributes, and finding them in a request (RFC 6265).

use http::{HeaderValue, header};

use crate::auth::login::{Active, PENDING_SECS};
use crate::transport::http::request::RequestContext;

/// Characters of the state that name a pending login's cookie: enough to keep tabs apart.
const STATE_CHARS: usize = 12;

/// With the prefix `__Host-` a browser takes the cookie from this very host alone, over TLS, for every path.
pub fn session_name(login: &Active) -> &'static str {
    if login.is_plain() { "lastmile" } else { "__Host-lastmile" }
}

/// `None` for what is no state of ours. One for each login that has begun, so that tabs do not meet.
pub fn pending_name(login: &Active, state: &str) -> Option<String> {
    let head = state.get(..STATE_CHARS)?;
    let is_ours = head.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    is_ours.then(|| format!("{}{head}", pending_prefix(login)))
}

pub fn pending_prefix(login: &Active) -> &'static str {
    if login.is_plain() { "lastmile-login-" } else { "__Host-lastmile-login-" }
}

/// Sets the session; its end is sealed inside too.
pub fn set_session(login: &Active, sealed: &str) -> Option<HeaderValue> {
    set(login, session_name(login), sealed, login.session_secs())
}

pub fn set_pending(login: &Active, name: &str, sealed: &str) -> Option<HeaderValue> {
    set(login, name, sealed, PENDING_SECS)
}

/// Makes the browser forget a cookie.
pub fn clear(login: &Active, name: &str) -> Option<HeaderValue> {
    set(login, name, "", 0)
}

/// `SameSite=Lax`, because the browser comes back from another site.
fn set(login: &Active, name: &str, value: &str, max_age: u64) -> Option<HeaderValue> {
    let secure = if login.is_plain() { "" } else { "; Secure" };
    let text = format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}");
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Every cookie of the request with its name.
pub fn all(call: &RequestContext) -> impl Iterator<Item = (&str, &str)> {
    let headers = call.headers().get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    headers.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

/// The values of this name. An honest browser has one; another page of a plain host may have planted more.
pub fn named<'a>(call: &'a RequestContext, name: &str) -> impl Iterator<Item = &'a str> {
    all(call).filter(move |(known, _)| *known == name).map(|(_, value)| value)
}
