//! Origin check: a listener accepts pages of its own origin and of those on its list.

use http::header;

use super::request::RequestContext;
use crate::protocol::{ErrorCode, Refusal};

/// Browsers send the page's origin in `Origin` (RFC 6454). Other programs send none and pass.
pub fn check(call: &RequestContext) -> Result<(), Refusal> {
    let mut origins = call.headers().get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return Ok(());
    };
    let is_allowed = origins.next().is_none()
        && origin.to_str().is_ok_and(|origin| is_listed(call, origin) || is_own(origin, call.authority()));
    if is_allowed { Ok(()) } else { Err(ErrorCode::OriginForbidden.into()) }
}

/// Whether the origin is on the listener's list.
pub fn is_listed(call: &RequestContext, origin: &str) -> bool {
    call.peer().listener.origins.iter().any(|allowed| allowed == origin)
}

/// Whether `origin` has the host and port of `authority`. The scheme is not compared: behind a TLS proxy the gateway
/// does not know it.
fn is_own(origin: &str, authority: &str) -> bool {
    let Some((scheme, host)) = origin.split_once("://") else {
        return false;
    };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let without_default = |host: &str| host.strip_suffix(default_port).unwrap_or(host).to_ascii_lowercase();
    !host.is_empty() && !host.contains('@') && without_default(host) == without_default(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_origin_has_same_host_and_port() {
        let check = |origin: &str, authority: &str, expected: bool| {
            assert_eq!(is_own(origin, authority), expected, "{origin} at {authority}");
        };
        check("https://gw.example.com", "gw.example.com", true);
        check("https://gw.example.com", "gw.example.com:443", true);
        check("http://gw.example.com:80", "gw.example.com", true);
        check("http://127.0.0.1:8080", "127.0.0.1:8080", true);
        check("http://127.0.0.1:8081", "127.0.0.1:8080", false);
        check("https://gw.example.com.evil.com", "gw.example.com", false);
        check("https://gw.example.com.", "gw.example.com", false);
        check("https://user@gw.example.com", "gw.example.com", false);
        check("null", "gw.example.com", false);
        check("", "", false);
        check("https://", "", false);
        check("file://gw.example.com", "gw.example.com", false);
    }
}
