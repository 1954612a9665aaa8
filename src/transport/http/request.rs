//! One HTTP request as the handlers see it, put into the request's extensions before the filters run.

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, header};

use crate::auth::client_addr::ClientAddr;
use crate::protocol::{ChannelName, ErrorCode, Refusal};
use crate::transport::accept::connection_limits::Permit;
use crate::transport::config::{ListenerConfig, Role};
use crate::transport::endpoints::Endpoint;

/// What is known of the connection that a request came on.
#[derive(Clone)]
pub struct Peer {
    pub listener: Arc<ListenerConfig>,
    /// The address that the connection came from; `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// Counts the connection; goes with it through the upgrade.
    pub permit: Arc<Permit>,
}

/// A request without its body. Cheap to clone, because filters do.
#[derive(Clone)]
pub struct RequestContext(Arc<Inner>);

struct Inner {
    head: Parts,
    peer: Peer,
    client: Option<ClientAddr>,
    endpoint: Option<&'static Endpoint>,
    has_body: bool,
}

impl RequestContext {
    /// `has_body` is whether a body follows.
    pub fn new(
        head: Parts,
        peer: Peer,
        client: Option<ClientAddr>,
        endpoint: Option<&'static Endpoint>,
        has_body: bool,
    ) -> Self {
        Self(Arc::new(Inner { head, peer, client, endpoint, has_body }))
    }

    /// The endpoint of the path, whether or not the listener has its role.
    pub fn endpoint(&self) -> Option<&'static Endpoint> {
        self.0.endpoint
    }

    pub fn method(&self) -> &str {
        self.0.head.method.as_str()
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.0.head.headers
    }

    /// The path as it was sent, percent-encoded.
    pub fn path(&self) -> &str {
        self.0.head.uri.path()
    }

    pub fn query(&self) -> Option<&str> {
        self.0.head.uri.query()
    }

    /// Host and port as the client wrote them.
    pub fn authority(&self) -> &str {
        let from_uri = self.0.head.uri.authority().map(http::uri::Authority::as_str);
        from_uri.or_else(|| self.header(header::HOST)).unwrap_or("")
    }

    /// A header that is sent once, as text.
    pub fn header(&self, name: header::HeaderName) -> Option<&str> {
        let mut values = self.headers().get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        }
    }

    pub fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// The client's own address, behind proxies that are trusted.
    pub fn client(&self) -> Option<ClientAddr> {
        self.0.client
    }

    pub fn has_role(&self, role: Role) -> bool {
        self.0.peer.listener.roles.contains(&role)
    }

    /// Whether a body follows. HTTP/2 needs no header for that.
    pub fn has_body(&self) -> bool {
        self.0.has_body
            || self.headers().contains_key(header::TRANSFER_ENCODING)
            || self.header(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
    }

    /// The token of `Authorization: Bearer` (RFC 6750 section 2.1).
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header(header::AUTHORIZATION)?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }
}

/// The channel that a path segment names, percent-decoded.
pub fn channel_in(segment: &str) -> Result<ChannelName, Refusal> {
    let invalid = |detail: String| Refusal::new(ErrorCode::ChannelInvalid, detail);
    let name = percent_encoding::percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| invalid("the channel name is not UTF-8".into()))?;
    ChannelName::parse(&name).map_err(|error| invalid(error.to_string()))
}
