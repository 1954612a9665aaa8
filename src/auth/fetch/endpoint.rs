//! URLs of outgoing requests, from the configuration or a configured provider's document.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;

/// An absolute `https` URL, or `http` on loopback. Tokens never supply one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    url: Uri,
    /// The host is this machine, and the configuration says so.
    own_loopback: bool,
}

/// Why a URL is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("not an absolute https URL without a fragment")]
    NotAUrl,
    #[error("a URL must not contain a user or password")]
    Credentials,
    #[error("must be https; http is allowed for loopback addresses only")]
    NotHttps,
}

impl Endpoint {
    /// A URL of the configuration.
    pub fn configured(url: &str) -> Result<Self, EndpointError> {
        let (url, is_loopback) = parse(url)?;
        let this = Self { url, own_loopback: is_loopback };
        if this.is_tls() || is_loopback { Ok(this) } else { Err(EndpointError::NotHttps) }
    }

    /// A URL in the document at `self`. It may use `http` or this machine only if `self` is on this machine.
    pub fn discovered(&self, url: &str) -> Result<Self, EndpointError> {
        let (url, is_loopback) = parse(url)?;
        let this = Self { url, own_loopback: is_loopback && self.own_loopback };
        if this.is_tls() || (this.own_loopback && !self.is_tls()) { Ok(this) } else { Err(EndpointError::NotHttps) }
    }

    /// A name or an address, without brackets.
    pub fn host(&self) -> &str {
        let host = self.url.host().unwrap_or_default();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    pub fn port(&self) -> u16 {
        self.url.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    pub fn is_tls(&self) -> bool {
        self.url.scheme() == Some(&http::uri::Scheme::HTTPS)
    }

    pub(super) fn is_own_loopback(&self) -> bool {
        self.own_loopback
    }

    pub(super) fn authority(&self) -> &str {
        self.url.authority().map_or("", |authority| authority.as_str())
    }

    pub(super) fn path_and_query(&self) -> &str {
        self.url.path_and_query().map_or("/", |path| path.as_str())
    }
}

/// The URL, and whether its host is a loopback address or `localhost`.
fn parse(text: &str) -> Result<(Uri, bool), EndpointError> {
    // The parser ignores fragments, which are never sent.
    let url: Uri = text.parse().ok().filter(|_| !text.contains('#')).ok_or(EndpointError::NotAUrl)?;
    if !matches!(url.scheme_str(), Some("https" | "http")) {
        return Err(EndpointError::NotAUrl);
    }
    let authority = url.authority().ok_or(EndpointError::NotAUrl)?;
    if authority.as_str().contains('@') {
        return Err(EndpointError::Credentials);
    }
    let host = authority.host();
    if host.is_empty() {
        return Err(EndpointError::NotAUrl);
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_loopback = match bare {
        Some(address) => {
            let address = address.parse::<Ipv6Addr>().map_err(|_| EndpointError::NotAUrl)?;
            IpAddr::V6(address).to_canonical().is_loopback()
        }
        None => host.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok_and(|it| it.is_loopback()),
    };
    Ok((url, is_loopback))
}

impl fmt::Display for Endpoint {
    /// The URL as written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}
