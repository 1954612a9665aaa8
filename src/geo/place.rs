//! What is known of a client's place, and the word of a load balancer where the databases know no city.

use http::HeaderMap;

/// Added by the load balancer before the gateway: region and city, with a comma between them.
const HEADER: &str = "x-client-geo-location";

/// Longest name that is taken from the header, in bytes.
const MAX_NAME: usize = 128;

/// Names for people, in a language of theirs; what is not known is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    pub city: Option<String>,
    /// The first subdivision of the country.
    pub region: Option<String>,
    pub country: Option<String>,
}

impl Location {
    /// Takes region and city from `X-Client-Geo-Location: <region>,<city>` if the city is not known. The header counts
    /// only if the socket's peer is a trusted proxy, and only if there is one: anybody can send it.
    pub fn or_told(self, headers: &HeaderMap, peer_is_trusted: bool) -> Self {
        if self.city.is_some() || !peer_is_trusted {
            return self;
        }
        let mut lines = headers.get_all(HEADER).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return self };
        // Names of cities are not all ASCII; the load balancer writes UTF-8.
        let Some((region, city)) = std::str::from_utf8(line.as_bytes()).ok().and_then(|line| line.split_once(','))
        else {
            return self;
        };
        Self { city: name(city), region: name(region).or(self.region), country: self.country }
    }
}

fn name(text: &str) -> Option<String> {
    let text = text.trim();
    let is_name = !text.is_empty() && text.len() <= MAX_NAME && !text.contains(char::is_control);
    is_name.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn told(place: &Location, lines: &[&[u8]], peer_is_trusted: bool) -> Location {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HEADER, HeaderValue::from_bytes(line).unwrap());
        }
        place.clone().or_told(&headers, peer_is_trusted)
    }

    fn place(city: Option<&str>, region: Option<&str>, country: Option<&str>) -> Location {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Location { city: owned(city), region: owned(region), country: owned(country) }
    }

    #[test]
    fn the_load_balancer_is_asked_where_no_city_is_known() {
        let country = place(None, Some("Old"), Some("United States"));
        let told = |line: &str| told(&country, &[line.as_bytes()], true);
        assert_eq!(told("CA, Mountain View"), place(Some("Mountain View"), Some("CA"), Some("United States")));
        assert_eq!(told("BR,São Paulo"), place(Some("São Paulo"), Some("BR"), Some("United States")));
        assert_eq!(told("CA,"), place(None, Some("CA"), Some("United States")));
        assert_eq!(told(",Rome"), place(Some("Rome"), Some("Old"), Some("United States")));
        for useless in ["", ",", "CA", &format!("{0},{0}", "x".repeat(MAX_NAME + 1))] {
            assert_eq!(told(useless), country, "{useless}");
        }
    }

    #[test]
    fn a_known_city_stays() {
        let known = place(Some("London"), None, None);
        assert_eq!(told(&known, &[b"CA,Mountain View"], true), known);
    }

    #[test]
    fn t_x1_only_a_trusted_proxy_can_say_where_a_client_is() {
        assert_eq!(told(&Location::default(), &[b"CA,Mountain View"], false), Location::default());
    }

    #[test]
    fn two_headers_or_bytes_that_are_no_text_say_nothing() {
        assert_eq!(told(&Location::default(), &[b"CA,Mountain View", b"NY,New York"], true), Location::default());
        assert_eq!(told(&Location::default(), &[b"CA,\xff\xfe"], true), Location::default());
        assert_eq!(told(&Location::default(), &[], true), Location::default());
    }
}
