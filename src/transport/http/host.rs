//! The names of a listener: the hosts that requests may name, and the origins that are its own.

use std::net::{IpAddr, SocketAddr};

use http::header;

use super::request::RequestContext;
use crate::auth::publisher::is_same_authority;
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::config::{Address, Role};
use crate::transport::endpoints;
use crate::transport::state::AppState;

/// Refuses a request whose host is none of the listener's names.
///
/// Where signatures are verified, a listener always has names: a signature is valid only where it was meant for.
pub fn check(call: &RequestContext) -> Result<(), Refusal> {
    let listener = &call.peer().listener;
    let is_for_operators = call.has_role(Role::Ops) && call.endpoint().is_some_and(|it| it.role == Some(Role::Ops));
    let is_known = if is_for_operators {
        // No page has business here.
        if call.headers().contains_key(header::ORIGIN) {
            return Err(ErrorCode::OriginForbidden.into());
        }
        // Health checks name any address of the machine or of its balancer. They reveal nothing.
        let is_health_check = [&endpoints::HEALTHZ, &endpoints::READYZ].iter().any(|it| it.matches(call.path()));
        // A page on the internet can point a name of its own to this listener (DNS rebinding), but not an address.
        is_health_check || call.authority().is_empty() || is_given(call)
    } else if listener.has_fixed_hosts() {
        is_public_url(call)
            || listener.hosts.iter().any(|host| is_same_authority(host, call.authority()))
            || (listener.hosts.is_empty() && is_local_name(&listener.address, call))
    } else {
        true
    };
    if is_known {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::HostUnknown, "host is not a name of the listener (hosts)"))
}

/// Whether a page of `origin` is a page of this listener. The scheme is not compared: behind a TLS proxy the gateway
/// does not know it.
///
/// A name counts only if the operator gave it. The owner of any other name may point it here (DNS rebinding).
pub fn is_own_origin(app: &AppState, call: &RequestContext, origin: &str) -> bool {
    let is_given = || {
        let login = app.login.active();
        is_given(call) || login.is_some_and(|login| is_same_authority(login.authority(), call.authority()))
    };
    has_authority(origin, call.authority()) && is_given()
}

/// Whether `origin` has the host and port of `authority`.
fn has_authority(origin: &str, authority: &str) -> bool {
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

/// Whether the request's host is an IP address, or a name that the operator gave to the listener.
fn is_given(call: &RequestContext) -> bool {
    let (authority, listener) = (call.authority(), &call.peer().listener);
    let host = without_port(authority);
    let is_address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    is_address
        || host.eq_ignore_ascii_case("localhost")
        || is_public_url(call)
        || listener.hosts.iter().any(|known| is_same_authority(known, authority))
        || call.peer().certificate.as_ref().is_some_and(|certificate| certificate.is_valid_for(host))
}

fn is_public_url(call: &RequestContext) -> bool {
    let url = call.peer().listener.public_url.as_ref();
    url.is_some_and(|url| is_same_authority(url.authority(), call.authority()))
}

/// Whether the host is the address of the listener or `localhost`, with its port.
fn is_local_name(address: &Address, call: &RequestContext) -> bool {
    let authority = call.authority();
    let default_port = if call.peer().certificate.is_some() { 443 } else { 80 };
    match address {
        Address::Tcp(own) => {
            let socket = authority.parse::<SocketAddr>().or_else(|_| {
                let host = authority.trim_start_matches('[').trim_end_matches(']');
                host.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, default_port))
            });
            let is_own =
                |named: SocketAddr| (named.ip().to_canonical(), named.port()) == (own.ip().to_canonical(), own.port());
            socket.is_ok_and(is_own)
                || is_same_authority(authority, &format!("localhost:{}", own.port()))
                || (own.port() == default_port && is_same_authority(authority, "localhost"))
        }
        // A socket file has no port, and no client outside of this machine.
        Address::Unix(_) => is_same_authority(authority, "localhost"),
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && (!host.contains(':') || host.ends_with(']')) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_origin_has_same_host_and_port() {
        let check = |origin: &str, authority: &str, expected: bool| {
            assert_eq!(has_authority(origin, authority), expected, "{origin} at {authority}");
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

    #[test]
    fn port_is_no_part_of_host() {
        for (authority, host) in [
            ("gw.example.com:8080", "gw.example.com"),
            ("gw.example.com", "gw.example.com"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("[::1]:1", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("", ""),
        ] {
            assert_eq!(without_port(authority), host, "{authority}");
        }
    }
}
