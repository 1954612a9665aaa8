//! The client address of a request, for limits, address-bound rooms and GeoIP.
//!
//! Computed from the socket's peer and the headers. Headers count only if the peer is a trusted proxy.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

use http::HeaderMap;
use http::header::FORWARDED;
use ipnet::IpNet;

const X_FORWARDED_FOR: &str = "x-forwarded-for";
/// Most entries of a header that are read, from the right.
const MAX_FORWARDED_ENTRIES: usize = 64;

/// A client address in canonical form: IPv4 inside IPv6 is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientAddr(IpAddr);

impl ClientAddr {
    pub fn ip(self) -> IpAddr {
        self.0
    }

    /// The key for limits: the IPv4 address, or the first address of the IPv6 /64, the usual size of one customer's
    /// network.
    pub fn limit_key(self) -> IpAddr {
        match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        }
    }

    /// Whether one of the ranges contains it. An IPv6 range of mapped addresses equals the IPv4 range.
    fn is_in(self, ranges: &[IpNet]) -> bool {
        ranges.iter().any(|range| match (range, self.0) {
            (IpNet::V6(range), IpAddr::V4(address)) => {
                range.prefix_len() >= 96 && range.contains(&address.to_ipv6_mapped())
            }
            (range, address) => range.contains(&address),
        })
    }
}

impl From<IpAddr> for ClientAddr {
    fn from(address: IpAddr) -> Self {
        let IpAddr::V6(v6) = address else { return Self(address) };
        // `::ffff:192.0.2.1`, and the older `::192.0.2.1` (RFC 4291 section 2.5.5), but not `::` and `::1`.
        let is_compatible = v6.segments()[..6] == [0; 6] && v6.to_bits() > 1;
        Self(if is_compatible { Ipv4Addr::from_bits(v6.to_bits() as u32).into() } else { address.to_canonical() })
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The client of a request: `peer`, or the address that trusted proxies forward.
///
/// Proxies append the address of their peer. So the right-most address that is not a trusted proxy is the client, and
/// entries left of it may be forged. A client must never choose its address, so ambiguous headers yield `peer`: an
/// entry that is not an address, more than 64 entries, only trusted proxies, or `X-Forwarded-For` and `Forwarded`
/// (RFC 7239) with different results. `None` if a trusted proxy says that it does not know the address, or hides it.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Option<ClientAddr> {
    let is_proxy = is_trusted(peer, trusted);
    let peer = Some(ClientAddr::from(peer));
    if !is_proxy {
        return peer;
    }
    let forwarded_by = |name: &str, entries: EntriesOf| {
        headers.contains_key(name).then(|| find_client(headers, name, entries, trusted).unwrap_or(peer))
    };
    match (forwarded_by(X_FORWARDED_FOR, x_forwarded_for), forwarded_by(FORWARDED.as_str(), forwarded)) {
        (None, None) => peer,
        (Some(client), None) | (None, Some(client)) => client,
        (Some(one), Some(other)) if one == other => one,
        (Some(_), Some(_)) => peer,
    }
}

/// Whether the socket's peer is a trusted proxy, so that its other headers about the client are valid too.
pub fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    ClientAddr::from(peer).is_in(trusted)
}

/// An entry of a header: a node that the proxies passed the request on for.
enum Node {
    Address(IpAddr),
    /// `unknown`, or a name that stands for the address (RFC 7239 sections 6.2 and 6.3).
    Unnamed,
}

/// The entries of one header line from the right; `None` for an entry that is not a node.
type EntriesOf = for<'a> fn(&'a str) -> Box<dyn Iterator<Item = Option<Node>> + 'a>;

/// The right-most untrusted address over all lines of the header, which may be unknown. `None` without a valid entry.
fn find_client(headers: &HeaderMap, name: &str, entries: EntriesOf, trusted: &[IpNet]) -> Option<Option<ClientAddr>> {
    let mut left = MAX_FORWARDED_ENTRIES;
    // Several lines are one list, in the order of the lines (RFC 9110 section 5.3).
    for line in headers.get_all(name).iter().rev() {
        for entry in entries(line.to_str().ok()?) {
            left = left.checked_sub(1)?;
            let Node::Address(address) = entry? else { return Some(None) };
            let address = ClientAddr::from(address);
            if !address.is_in(trusted) {
                return Some(Some(address));
            }
        }
    }
    None
}

fn x_forwarded_for(line: &str) -> Box<dyn Iterator<Item = Option<Node>> + '_> {
    Box::new(line.rsplit(',').map(|entry| parse_node(entry.trim_matches([' ', '\t']))))
}

fn forwarded(line: &str) -> Box<dyn Iterator<Item = Option<Node>> + '_> {
    // Addresses need no backslash, and it makes the end of a quoted string ambiguous.
    let Some(elements) = (!line.contains('\\')).then(|| split_unquoted(line, ',')).flatten() else {
        return Box::new(std::iter::once(None));
    };
    Box::new(elements.into_iter().rev().map(forwarded_for))
}

/// The `for` of one element: `for=192.0.2.1;proto=https`, `For="[2001:db8::1]:4711"`.
fn forwarded_for(element: &str) -> Option<Node> {
    let mut found = None;
    for pair in split_unquoted(element, ';')? {
        let (name, value) = pair.trim_matches([' ', '\t']).split_once('=')?;
        if name.eq_ignore_ascii_case("for") {
            let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            if found.replace(parse_node(quoted.unwrap_or(value))?).is_some() {
                return None;
            }
        }
    }
    found
}

/// Splits outside of double quotes; `None` if a quote is not closed. Keeps the right-most parts only, one more than
/// are read.
fn split_unquoted(text: &str, separator: char) -> Option<VecDeque<&str>> {
    let mut is_quoted = false;
    let mut parts = VecDeque::new();
    let parted = text.split(|c: char| {
        is_quoted ^= c == '"';
        c == separator && !is_quoted
    });
    for part in parted {
        if parts.len() > MAX_FORWARDED_ENTRIES {
            parts.pop_front();
        }
        parts.push_back(part);
    }
    text.matches('"').count().is_multiple_of(2).then_some(parts)
}

/// An address, `unknown`, or a name that begins with `_`; each may have a port.
fn parse_node(text: &str) -> Option<Node> {
    let (name, port) = text.split_once(':').unwrap_or((text, "0"));
    let is_port = |port: &str| port.strip_prefix('_').unwrap_or(port).bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_hidden = name.len() > 1
        && name.starts_with('_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if (is_hidden || name.eq_ignore_ascii_case("unknown")) && is_port(port) {
        return Some(Node::Unnamed);
    }
    parse_address(text).map(Node::Address)
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`; no zones, no names.
fn parse_address(text: &str) -> Option<IpAddr> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        let is_port = |port: &str| port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        return (port.is_empty() || is_port(port)).then(|| address.parse::<Ipv6Addr>().ok()).flatten().map(IpAddr::V6);
    }
    text.parse().ok().or_else(|| Some(IpAddr::V4(*text.parse::<SocketAddrV4>().ok()?.ip())))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn trusted() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| -> (HeaderName, HeaderValue) {
            (name.parse().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        lines.iter().map(pair).collect()
    }

    fn address(peer: &str, lines: &[(&str, &str)]) -> String {
        let client = client_address(ip(peer), &headers(lines), &trusted());
        client.map_or("unknown".to_owned(), |client| client.to_string())
    }

    fn xff(value: &str) -> String {
        address(PROXY, &[("x-forwarded-for", value)])
    }

    fn fwd(value: &str) -> String {
        address(PROXY, &[("forwarded", value)])
    }

    #[test]
    fn no_proxy_is_trusted_by_default() {
        let lines = headers(&[("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=1.1.1.1")]);
        assert_eq!(client_address(ip(PROXY), &lines, &[]).unwrap().ip(), ip(PROXY));
        assert_eq!(client_address(ip("::1"), &HeaderMap::new(), &[]).unwrap().ip(), ip("::1"));
    }

    #[test]
    fn headers_of_untrusted_peer_are_ignored() {
        assert_eq!(address("203.0.113.9", &[("x-forwarded-for", "1.1.1.1")]), "203.0.113.9");
        assert_eq!(address("203.0.113.9", &[("forwarded", "for=1.1.1.1")]), "203.0.113.9");
    }

    #[test]
    fn rightmost_untrusted_address_wins() {
        assert_eq!(xff("203.0.113.9"), "203.0.113.9");
        assert_eq!(xff("127.0.0.1, 6.6.6.6, 203.0.113.9"), "203.0.113.9");
        assert_eq!(xff("6.6.6.6,203.0.113.9 ,\t10.2.3.4, fd00::7"), "203.0.113.9");
        assert_eq!(fwd("for=6.6.6.6, for=203.0.113.9;proto=https;by=10.0.0.1, for=10.2.3.4"), "203.0.113.9");
    }

    #[test]
    fn header_lines_are_one_list() {
        let lines =
            [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "10.1.1.1")];
        assert_eq!(address(PROXY, &lines), "203.0.113.9");
        let lines = [("forwarded", "for=6.6.6.6"), ("forwarded", "for=203.0.113.9")];
        assert_eq!(address(PROXY, &lines), "203.0.113.9");
    }

    #[test]
    fn parses_ports_and_brackets() {
        for node in ["203.0.113.9:80", "203.0.113.9"] {
            assert_eq!(xff(node), "203.0.113.9", "{node}");
            assert_eq!(fwd(&format!("for=\"{node}\"")), "203.0.113.9", "{node}");
        }
        for node in ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:65535"] {
            assert_eq!(xff(node), "2001:db8::1", "{node}");
            assert_eq!(fwd(&format!("For=\"{node}\"")), "2001:db8::1", "{node}");
        }
    }

    #[test]
    fn invalid_entry_yields_peer() {
        for entry in [
            "",
            "unknown.example",
            "_ ",
            "_hidden:\"80",
            "fe80::1%eth0",
            "[fe80::1%1]:80",
            "010.1.2.3",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.4:",
            "1.2.3.4:65536",
            "[::2]x",
            "[::2",
            "::2]",
            "[1.2.3.4]",
            "2001:db8::1:80:80:80:80:80:80:80",
            "a.example",
            "\u{e9}",
            "\"1.2.3.4\"",
            "1.2.3.4 5.6.7.8",
        ] {
            assert_eq!(xff(entry), PROXY, "{entry}");
            assert_eq!(xff(&format!("6.6.6.6, {entry}, 10.9.9.9")), PROXY, "{entry}");
            assert_eq!(fwd(&format!("for=6.6.6.6, for={entry}x, for=10.9.9.9")), PROXY, "{entry}");
            // Entries left of the client are not read.
            assert_eq!(xff(&format!("{entry}, 203.0.113.9")), if entry.is_ascii() { "203.0.113.9" } else { PROXY });
        }
    }

    #[test]
    fn unnamed_client_has_no_address() {
        for node in ["unknown", "Unknown", "unknown:80", "_hidden", "_SEVKISEK:_port"] {
            assert_eq!(xff(node), "unknown", "{node}");
            assert_eq!(xff(&format!("6.6.6.6, {node}, 10.9.9.9")), "unknown", "{node}");
            assert_eq!(fwd(&format!("for=6.6.6.6, for=\"{node}\", for=10.9.9.9")), "unknown", "{node}");
            // A client cannot hide behind its own entry.
            assert_eq!(xff(&format!("{node}, 203.0.113.9")), "203.0.113.9", "{node}");
            assert_eq!(address("203.0.113.9", &[("x-forwarded-for", node)]), "203.0.113.9", "{node}");
        }
        let both = |other| address(PROXY, &[("x-forwarded-for", "unknown"), ("forwarded", other)]);
        assert_eq!((both("for=unknown"), both("for=203.0.113.9")), ("unknown".to_owned(), PROXY.to_owned()));
    }

    #[test]
    fn malformed_forwarded_yields_peer() {
        for value in [
            "",
            "for",
            "for=",
            "proto=https",
            "for=1.1.1.1;for=2.2.2.2",
            "for=\"1.1.1.1",
            "for=\"\\1.1.1.1\"",
            "for=1.1.1.1;",
            "for=\"6.6.6.6, for=203.0.113.9",
            "for=\"6.6.6.6\\\", for=203.0.113.9",
            "for=1.1.1.1,",
            "for=[2001:db8::1]x",
        ] {
            assert_eq!(fwd(value), PROXY, "{value}");
        }
        assert_eq!(fwd("for=203.0.113.9;host=\"a,b;for=6.6.6.6\""), "203.0.113.9");
    }

    #[test]
    fn only_trusted_entries_yield_peer() {
        assert_eq!(xff("10.1.1.1, 10.2.2.2"), PROXY);
        assert_eq!(fwd("for=10.1.1.1"), PROXY);
    }

    #[test]
    fn both_headers_must_agree() {
        let both = |one, other| address(PROXY, &[("x-forwarded-for", one), ("forwarded", other)]);
        assert_eq!(both("203.0.113.9", "for=203.0.113.9"), "203.0.113.9");
        assert_eq!(both("203.0.113.9", "for=6.6.6.6"), PROXY);
        assert_eq!(both("6.6.6.6", "nonsense"), PROXY);
    }

    #[test]
    fn connection_header_has_no_effect() {
        let lines = [("connection", "x-forwarded-for, forwarded"), ("x-forwarded-for", "203.0.113.9")];
        assert_eq!(address(PROXY, &lines), "203.0.113.9");
    }

    #[test]
    fn reads_the_last_64_entries() {
        let many = "6.6.6.6, ".repeat(10_000);
        assert_eq!(xff(&format!("{many}203.0.113.9")), "203.0.113.9");
        let list = |proxies: usize| format!("203.0.113.9{}", ", 10.1.1.1".repeat(proxies));
        assert_eq!(xff(&list(63)), "203.0.113.9");
        assert_eq!(xff(&list(64)), PROXY);
        let list = |proxies: usize| format!("for=6.6.6.6, for=203.0.113.9{}", ", for=10.1.1.1".repeat(proxies));
        assert_eq!(fwd(&list(63)), "203.0.113.9");
        assert_eq!(fwd(&list(64)), PROXY);
        assert_eq!(fwd(&format!("{}for=203.0.113.9", "for=6.6.6.6,".repeat(10_000))), "203.0.113.9");
    }

    #[test]
    fn mapped_ipv4_is_ipv4() {
        for text in ["127.0.0.1", "::ffff:127.0.0.1", "::127.0.0.1", "::ffff:7f00:1"] {
            let client = ClientAddr::from(ip(text));
            assert_eq!(client, ClientAddr::from(ip("127.0.0.1")), "{text}");
            assert_eq!(client.limit_key(), ip("127.0.0.1"), "{text}");
        }
        assert_eq!(ClientAddr::from(ip("::1")).ip(), ip("::1"));
        assert_eq!(ClientAddr::from(ip("::")).ip(), ip("::"));
    }

    #[test]
    fn trusted_ranges_match_mapped_ipv4() {
        for peer in ["10.0.0.1", "::ffff:10.0.0.1", "::10.0.0.1"] {
            for trusted in ["10.0.0.0/8", "::ffff:10.0.0.0/104"] {
                let lines = headers(&[("x-forwarded-for", "::ffff:203.0.113.9, ::ffff:10.3.3.3")]);
                let client = client_address(ip(peer), &lines, &[trusted.parse().unwrap()]);
                assert_eq!(client.unwrap().ip(), ip("203.0.113.9"), "{peer} {trusted}");
            }
        }
        // The range of all IPv6 addresses contains no IPv4 address.
        let lines = headers(&[("x-forwarded-for", "6.6.6.6")]);
        assert_eq!(
            client_address(ip("203.0.113.9"), &lines, &["::/0".parse().unwrap()]).unwrap().ip(),
            ip("203.0.113.9")
        );
    }

    #[test]
    fn limit_key_is_an_ipv6_network() {
        let key = |text| ClientAddr::from(ip(text)).limit_key();
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), ip("2001:db8:1:2::"));
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    proptest! {
        #[test]
        fn any_header_keeps_untrusted_peer(
            xff in proptest::collection::vec("[\\x20-\\x7e\\t\u{80}-\u{ff}]{0,80}|([0-9a-f.:\\[\\]\", ]{0,80})", 0..4),
            fwd in proptest::collection::vec("[\\x20-\\x7e]{0,80}|(for=[0-9a-f.:\\[\\]\";, \\\\]{0,40}[,;]?){0,3}", 0..4),
            peer: std::net::IpAddr,
        ) {
            let xff = xff.iter().map(|value| ("x-forwarded-for", value.as_str()));
            let lines: Vec<_> = xff.chain(fwd.iter().map(|value| ("forwarded", value.as_str()))).collect();
            let lines = headers(&lines);
            client_address(ip(PROXY), &lines, &trusted());
            prop_assert_eq!(client_address(peer, &lines, &[]), Some(ClientAddr::from(peer)));
        }

        #[test]
        fn forged_entries_have_no_effect(forged in "[\\x20-\\x7e]{0,60}") {
            prop_assert_eq!(xff(&format!("{forged}, 203.0.113.9")), "203.0.113.9");
        }
    }
}
