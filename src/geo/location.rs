//! Location of a client, with the load balancer's header as a fallback.

use http::HeaderMap;

/// Set by the load balancer: `<region>,<city>`.
const LOCATION_HEADER: &str = "x-client-geo-location";

/// Longest name in the header, in bytes.
const MAX_HEADER_NAME_BYTES: usize = 128;

/// Display names in the client's language. Unknown fields are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    pub city: Option<String>,
    /// The first subdivision of the country.
    pub region: Option<String>,
    pub country: Option<String>,
}

impl Location {
    /// Uses region and city of `X-Client-Geo-Location: <region>,<city>` if the city is unknown. The header counts only
    /// if the socket's peer is a trusted proxy and the header occurs once: any client can send it.
    pub fn or_forwarded(self, headers: &HeaderMap, peer_is_trusted: bool) -> Self {
        if self.city.is_some() || !peer_is_trusted {
            return self;
        }
        let mut lines = headers.get_all(LOCATION_HEADER).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return self };
        // City names are not all ASCII; the load balancer sends UTF-8.
        let Some((region, city)) = std::str::from_utf8(line.as_bytes()).ok().and_then(|line| line.split_once(','))
        else {
            return self;
        };
        Self { city: name(city), region: name(region).or(self.region), country: self.country }
    }
}

fn name(text: &str) -> Option<String> {
    let text = text.trim();
    let is_name = !text.is_empty() && text.len() <= MAX_HEADER_NAME_BYTES && !text.contains(char::is_control);
    is_name.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn forwarded(place: &Location, lines: &[&[u8]], peer_is_trusted: bool) -> Location {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(LOCATION_HEADER, HeaderValue::from_bytes(line).unwrap());
        }
        place.clone().or_forwarded(&headers, peer_is_trusted)
    }

    fn place(city: Option<&str>, region: Option<&str>, country: Option<&str>) -> Location {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Location { city: owned(city), region: owned(region), country: owned(country) }
    }

    #[test]
    fn header_is_used_without_a_city() {
        let country = place(None, Some("Old"), Some("United States"));
        let with_header = |line: &str| forwarded(&country, &[line.as_bytes()], true);
        assert_eq!(with_header("CA, Mountain View"), place(Some("Mountain View"), Some("CA"), Some("United States")));
        assert_eq!(with_header("BR,São Paulo"), place(Some("São Paulo"), Some("BR"), Some("United States")));
        assert_eq!(with_header("CA,"), place(None, Some("CA"), Some("United States")));
        assert_eq!(with_header(",Rome"), place(Some("Rome"), Some("Old"), Some("United States")));
        for useless in ["", ",", "CA", &format!("{0},{0}", "x".repeat(MAX_HEADER_NAME_BYTES + 1))] {
            assert_eq!(with_header(useless), country, "{useless}");
        }
    }

    #[test]
    fn known_city_stays() {
        let known = place(Some("London"), None, None);
        assert_eq!(forwarded(&known, &[b"CA,Mountain View"], true), known);
    }

    #[test]
    fn header_of_untrusted_peer_is_ignored() {
        assert_eq!(forwarded(&Location::default(), &[b"CA,Mountain View"], false), Location::default());
    }

    #[test]
    fn repeated_or_invalid_header_is_ignored() {
        assert_eq!(forwarded(&Location::default(), &[b"CA,Mountain View", b"NY,New York"], true), Location::default());
        assert_eq!(forwarded(&Location::default(), &[b"CA,\xff\xfe"], true), Location::default());
        assert_eq!(forwarded(&Location::default(), &[], true), Location::default());
    }
}
