//! Addresses, origins and host names of a listener, as text.

use std::net::{Ipv4Addr, SocketAddr};

use http::uri::Authority;

use crate::config::path::Path;
use crate::config::report::Report;
use crate::transport::config::Address;

/// Longest path of a Unix socket on Linux, without the byte that ends it.
const MAX_SOCKET_PATH: usize = 107;

const AN_ADDRESS: &str = "must be an IP address and a port, like 127.0.0.1:8080 or [::1]:8080, or unix:/path";

/// `host:port` or `unix:/path`. The only name is `localhost`: a listener does not wait for a name service.
pub fn check(address: Option<String>, listener: &Path, report: &mut Report) -> Option<Address> {
    let Some(text) = address else {
        report.missing(listener, "address", AN_ADDRESS);
        return None;
    };
    let path = listener.key("address");
    if let Some(socket) = text.strip_prefix("unix:") {
        if socket.is_empty() || socket.len() > MAX_SOCKET_PATH {
            report.wrong(&path, text.as_str(), format_args!("a socket's path has 1 to {MAX_SOCKET_PATH} bytes"));
            return None;
        }
        return Some(Address::Unix(socket.into()));
    }
    let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    let address = local.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).or_else(|| text.parse().ok());
    if address.is_none() {
        report.wrong(&path, text, AN_ADDRESS);
    }
    address.map(Address::Tcp)
}

/// As [`check`] reads it.
pub fn text(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// Compared with the `Origin` of browsers byte for byte, so it must be written as they write it (RFC 6454 section 6.2).
pub fn check_origins(origins: &[String], path: &Path, report: &mut Report) {
    for (index, origin) in origins.iter().enumerate() {
        if !is_origin(origin) {
            let right = "must be an origin as browsers write it: https://app.example.com, in small letters, \
                         without a path, without a default port";
            report.wrong(&path.index(index), origin.as_str(), right);
        }
    }
}

/// Scheme and authority as browsers write them.
pub fn is_origin(text: &str) -> bool {
    let host = text.split_once("://").map(|(scheme, host)| (scheme, is_host(host)));
    let default_port = [("http", ":80"), ("https", ":443")]
        .iter()
        .any(|(scheme, port)| host.is_some_and(|(known, _)| known == *scheme) && text.ends_with(port));
    matches!(host, Some((scheme, true)) if !scheme.is_empty() && is_lowercase(scheme)) && !default_port
}

pub fn check_hosts(hosts: &[String], path: &Path, report: &mut Report) {
    for (index, host) in hosts.iter().enumerate() {
        if !is_host(host) {
            let right = "must be a host name in small letters, with a port if it is not the default: \
                         live.example.com or live.example.com:8443";
            report.wrong(&path.index(index), host.as_str(), right);
        }
    }
}

fn is_host(text: &str) -> bool {
    let parsed = text.parse::<Authority>();
    is_lowercase(text)
        && !text.contains(['@', '*'])
        && parsed.is_ok_and(|authority| {
            let port = text.strip_prefix(authority.host()).unwrap_or("");
            !authority.host().is_empty() && (port.is_empty() || authority.port_u16().is_some())
        })
}

fn is_lowercase(text: &str) -> bool {
    !text.bytes().any(|b| b.is_ascii_uppercase())
}
