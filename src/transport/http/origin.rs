//! Origin check: a listener accepts pages of its own origin and of those on its list.

use http::header;

use super::host;
use super::request::RequestContext;
use crate::auth::publisher::is_same_authority;
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::state::AppState;

/// Browsers send the page's origin in `Origin` (RFC 6454). Other programs send none and pass.
pub fn check(app: &AppState, call: &RequestContext) -> Result<(), Refusal> {
    check_with(call, |origin| is_listed(call, origin) || host::is_own_origin(app, call, origin))
}

/// For older protocols whose clients are pages of any site: no credential that a browser adds by itself is used there.
///
/// A listener with a list of origins is as strict as all others. Without one, only a page whose own name leads here is
/// refused: the name is not the listener's (DNS rebinding).
pub fn check_unless_open(app: &AppState, call: &RequestContext) -> Result<(), Refusal> {
    if !call.peer().listener.origins.is_empty() {
        return check(app, call);
    }
    check_with(call, |origin| {
        let host = origin.split_once("://").map_or(origin, |(_, host)| host);
        !is_same_authority(host, call.authority()) || host::is_own_origin(app, call, origin)
    })
}

fn check_with(call: &RequestContext, is_allowed: impl FnOnce(&str) -> bool) -> Result<(), Refusal> {
    let mut origins = call.headers().get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return Ok(());
    };
    let is_allowed = origins.next().is_none() && origin.to_str().is_ok_and(is_allowed);
    if is_allowed { Ok(()) } else { Err(ErrorCode::OriginForbidden.into()) }
}

/// Whether the origin is on the listener's list.
pub fn is_listed(call: &RequestContext, origin: &str) -> bool {
    call.peer().listener.origins.iter().any(|allowed| allowed == origin)
}
