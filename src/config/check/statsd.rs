//! The table `statsd`.

use std::net::{Ipv6Addr, SocketAddr};

use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings;
use crate::ops::config::StatsdConfig;

const DEFAULT_PORT: u16 = 8125;

/// Returns `None` without a host.
pub fn check(statsd: settings::Statsd, report: &mut Report) -> Option<StatsdConfig> {
    let settings::Statsd { host, prefix } = statsd;
    let path = Path::of("statsd");
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(allowed) {
        report.wrong(&path.key("prefix"), prefix.as_str(), "must have 1 to 64 letters, digits, `-`, `_` and `.`");
    }
    if host.is_empty() {
        return None;
    }
    let path = path.key("host");
    let Some((name, port)) = split(&host) else {
        report.wrong(&path, host, "must be a host name or an IP address, with a port if it is not 8125");
        return None;
    };
    Some(StatsdConfig { host: name, port, prefix })
}

/// Parses `host`, `host:port`, `::1`, `[::1]` or `[::1]:port`.
fn split(text: &str) -> Option<(String, u16)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some((address.ip().to_string(), address.port())).filter(|(_, port)| *port > 0);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<Ipv6Addr>() {
        return Some((address.to_string(), DEFAULT_PORT));
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, port.parse().ok().filter(|port| *port > 0)?),
        None => (text, DEFAULT_PORT),
    };
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    (!name.is_empty() && name.len() <= 253 && is_name(name)).then(|| (name.to_owned(), port))
}
