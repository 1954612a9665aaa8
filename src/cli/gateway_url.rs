//! Where a gateway is: the base of its URLs.

use http::Uri;

/// Scheme, authority and path of a gateway, as `--url` gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayUrl {
    is_tls: bool,
    authority: String,
    /// Without a slash at the end; empty for the root.
    base: String,
}

impl GatewayUrl {
    /// Takes `http`, `https`, `ws` and `wss`; the error is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let example = "expected something like https://gateway.example:8081";
        let uri: Uri = text.parse().map_err(|error| format!("{error}; {example}"))?;
        let is_tls = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(format!("no http:// or https:// at the beginning; {example}")),
        };
        let authority = uri.authority().map(|authority| authority.as_str()).filter(|authority| !authority.is_empty());
        let authority = authority.ok_or_else(|| format!("no host; {example}"))?;
        if authority.contains('@') {
            return Err("a user name or password has no place in this URL".to_owned());
        }
        if uri.query().is_some() {
            return Err("this URL has no query".to_owned());
        }
        Ok(Self { is_tls, authority: authority.to_owned(), base: uri.path().trim_end_matches('/').to_owned() })
    }

    /// The WebSocket URL of a path that begins with a slash.
    pub fn websocket(&self, path: &str) -> Result<Uri, http::Error> {
        let scheme = if self.is_tls { "wss" } else { "ws" };
        Uri::builder()
            .scheme(scheme)
            .authority(self.authority.as_str())
            .path_and_query(format!("{}{path}", self.base))
            .build()
    }
}

impl std::fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_of_http_or_websocket_leads_to_the_same_place() {
        let check = |base: &str, expected: &str| {
            let url = GatewayUrl::parse(base).unwrap().websocket("/v1/publish").unwrap();
            assert_eq!(url.to_string(), expected);
        };
        check("http://127.0.0.1:8081", "ws://127.0.0.1:8081/v1/publish");
        check("ws://127.0.0.1:8081/", "ws://127.0.0.1:8081/v1/publish");
        check("https://gw.example/live/", "wss://gw.example/live/v1/publish");
        check("wss://[::1]:8443", "wss://[::1]:8443/v1/publish");
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for bad in ["", "gw.example", "127.0.0.1:8081", "ftp://gw.example", "http://", "http://u:p@gw", "http://gw?a=b"]
        {
            assert!(GatewayUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
