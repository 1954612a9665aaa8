//! Addresses, origins and host names of listeners.

use std::net::{Ipv4Addr, SocketAddr};

use http::uri::Authority;

use crate::config::path::Path;
use crate::config::report::Report;
use crate::transport::config::{Address, PublicUrl};

/// Longest path of a Unix socket on Linux, without the NUL byte (`unix(7)`).
const MAX_SOCKET_PATH_BYTES: usize = 107;

const ADDRESS_HINT: &str = "must be an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080, or unix:/path";

/// Parses `host:port` or `unix:/path`. The only host name is `localhost`, so a start does not depend on DNS.
pub fn check(address: Option<String>, listener: &Path, report: &mut Report) -> Option<Address> {
    let Some(text) = address else {
        report.missing(listener, "address", ADDRESS_HINT);
        return None;
    };
    let path = listener.key("address");
    if let Some(socket) = text.strip_prefix("unix:") {
        if socket.is_empty() || socket.len() > MAX_SOCKET_PATH_BYTES {
            report.wrong(
                &path,
                text.as_str(),
                format_args!("must have a socket path of 1 to {MAX_SOCKET_PATH_BYTES} bytes"),
            );
            return None;
        }
        return Some(Address::Unix(socket.into()));
    }
    let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    let address = local.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).or_else(|| text.parse().ok());
    if address.is_none() {
        report.wrong(&path, text, ADDRESS_HINT);
    }
    address.map(Address::Tcp)
}

/// Origins are compared with the header `Origin` byte by byte, so they must have its form (RFC 6454 section 6.2).
pub fn check_origins(origins: &[String], path: &Path, report: &mut Report) {
    for (index, origin) in origins.iter().enumerate() {
        if !is_origin(origin) {
            let right = "must be an origin in the form of the header `Origin`, such as https://app.example.com: lower case, \
                         without a path, without a default port";
            report.wrong(&path.index(index), origin.as_str(), right);
        }
    }
}

/// Whether the text has the form of the header `Origin`.
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
            let right = "must be a host name in lower case, with a port if it is not the default: \
                         live.example.com or live.example.com:8443";
            report.wrong(&path.index(index), host.as_str(), right);
        }
    }
}

/// Parses a URL with an optional path, under which a proxy serves the listener.
pub fn check_public_url(text: &str, path: &Path, report: &mut Report) -> Option<PublicUrl> {
    let bare = text.strip_suffix('/').unwrap_or(text);
    let after_scheme = bare.find("://").map_or(0, |at| at + 3);
    let (origin, below) = bare.split_at(bare[after_scheme..].find('/').map_or(bare.len(), |at| after_scheme + at));
    let is_segment = |segment: &str| {
        !segment.is_empty()
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~'))
            && !segment.bytes().all(|b| b == b'.')
    };
    let is_path = below.is_empty() || below[1..].split('/').all(is_segment);
    // The gateway's own paths begin with it, so it could not be told from a prefix.
    let is_distinct = below != "/v1" && !below.starts_with("/v1/");
    if is_origin(origin) && origin.starts_with("http") && is_path && is_distinct {
        return Some(PublicUrl::new(origin.to_owned(), below.to_owned()));
    }
    let right = "must be scheme and host in lower case, with port and path if there are any, such as \
                 \"https://example.com/live\"; the path does not begin with /v1";
    report.wrong(path, text, right);
    None
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
