//! Kinds of IP addresses (RFC 6890), to restrict where outgoing requests go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    Public,
    /// RFC 1918, shared (RFC 6598), unique local (RFC 4193).
    Private,
    Loopback,
    /// Unspecified, link-local (cloud metadata services), multicast, broadcast, documentation and test networks.
    Special,
}

/// An IPv4 address embedded in IPv6 has the kind of the IPv4 address.
pub fn kind(address: IpAddr) -> AddressKind {
    match address.to_canonical() {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

fn kind_v4(address: Ipv4Addr) -> AddressKind {
    let [a, b, c, _] = address.octets();
    if address.is_loopback() {
        return AddressKind::Loopback;
    }
    let is_shared = a == 100 && b & 0xc0 == 64;
    if address.is_private() || is_shared {
        return AddressKind::Private;
    }
    // 192.0.0.0/24 is for protocols, 198.18.0.0/15 for benchmarks, 240.0.0.0/4 is reserved.
    let is_special = a == 0 || a >= 224 || (a == 192 && b == 0 && c == 0) || (a == 198 && b & 0xfe == 18);
    if is_special || address.is_link_local() || address.is_documentation() {
        AddressKind::Special
    } else {
        AddressKind::Public
    }
}

fn kind_v6(address: Ipv6Addr) -> AddressKind {
    if address.is_loopback() {
        return AddressKind::Loopback;
    }
    if address.is_unique_local() {
        return AddressKind::Private;
    }
    let parts = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        kind_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        // IPv4-compatible (RFC 4291 section 2.5.5.1), including `::`.
        [0, 0, 0, 0, 0, 0, high, low] => embedded(high, low),
        // Translated (RFC 6052, NAT64) and tunnelled (RFC 3056, 6to4).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // Global unicast is 2000::/3, without Teredo and documentation.
        [0x2001, 0, ..] | [0x2001, 0xdb8, ..] => AddressKind::Special,
        [first, ..] if first & 0xe000 == 0x2000 => AddressKind::Public,
        _ => AddressKind::Special,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classifies_every_notation() {
        let cases = [
            (
                AddressKind::Public,
                "8.8.8.8 172.32.0.1 100.128.0.1 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1",
            ),
            (
                AddressKind::Private,
                "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 fd00::1 fc00::1 ::ffff:10.0.0.1 ::10.0.0.1 \
                 64:ff9b::a00:1 2002:a00:1::1",
            ),
            (
                AddressKind::Loopback,
                "127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 2002:7f00:1::1",
            ),
            (
                AddressKind::Special,
                "0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0 169.254.169.254 ::ffff:169.254.169.254 fe80::1 fec0::1 224.0.0.1 \
                 255.255.255.255 240.0.0.1 ff02::1 192.0.0.8 192.0.2.1 198.18.0.1 203.0.113.1 2001:db8::1 2001::1 100::1",
            ),
        ];
        for (expected, addresses) in cases {
            for address in addresses.split_whitespace() {
                assert_eq!(kind(address.parse().unwrap()), expected, "{address}");
            }
        }
    }
}
