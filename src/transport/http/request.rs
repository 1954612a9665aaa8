//! The request context: head, connection and client address, stored in the request's extensions.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Buf;
use futures_util::Stream;
use http::request::Parts;
use http::{HeaderMap, header};
use hyper::upgrade::OnUpgrade;

use crate::auth::client_addr::ClientAddr;
use crate::auth::publisher::{RequestHead, is_same_authority};
use crate::broker::Holder;
use crate::protocol::{ChannelName, ErrorCode, Refusal};
use crate::transport::accept::connection_limits::Permit;
use crate::transport::accept::stream_limits::StreamLimits;
use crate::transport::accept::tls::Certificate;
use crate::transport::config::{ListenerConfig, PublicUrl, Role};
use crate::transport::endpoints::Endpoint;

/// The connection of a request.
#[derive(Clone)]
pub struct HttpPeer {
    pub listener: Arc<ListenerConfig>,
    /// `None` without TLS.
    pub certificate: Option<Arc<Certificate>>,
    /// The address of the socket's peer, or of the PROXY header; `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// The connection's count, kept through an upgrade.
    pub permit: Arc<Permit>,
    /// `None` over HTTP/1.1, which has one request at a time.
    pub streams: Option<Arc<StreamLimits>>,
}

/// A request without its body. Cheap to clone, because filters do.
#[derive(Clone)]
pub struct RequestContext(Arc<ContextData>);

pub struct ContextData {
    /// Its path is the one behind that of the listener's `public_url`.
    pub head: Parts,
    pub peer: HttpPeer,
    pub client: Option<ClientAddr>,
    pub endpoint: Option<&'static Endpoint>,
    /// Whether a body follows.
    pub has_body: bool,
    pub upgrade: Option<OnUpgrade>,
    /// Whether a proxy of the operator sent the request, which may have changed its host.
    pub is_proxied: bool,
    /// Whether the path of `public_url` was removed.
    pub had_prefix: bool,
}

/// The body of a request, as warp gives it.
pub trait RequestBody: Stream<Item = Result<<Self as RequestBody>::Chunk, warp::Error>> + Send {
    type Chunk: Buf;
}

impl<C: Buf, B: Stream<Item = Result<C, warp::Error>> + Send> RequestBody for B {
    type Chunk = C;
}

impl RequestContext {
    pub fn new(data: ContextData) -> Self {
        Self(Arc::new(data))
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

    /// The path behind that of `public_url`, percent-encoded as it was sent.
    pub fn path(&self) -> &str {
        self.0.head.uri.path()
    }

    pub fn query(&self) -> Option<&str> {
        self.0.head.uri.query()
    }

    /// Host and port as the client sent them; behind a proxy, those of the listener's `public_url`.
    pub fn authority(&self) -> &str {
        let listener = &self.0.peer.listener;
        if let Some(url) = listener.public_url.as_ref().filter(|_| self.0.is_proxied) {
            return url.authority();
        }
        let from_uri = self.0.head.uri.authority().map(http::uri::Authority::as_str);
        from_uri.or_else(|| self.header(header::HOST)).unwrap_or("")
    }

    /// The path of the listener's `public_url`, which begins all links.
    pub fn public_prefix(&self) -> &str {
        self.0.peer.listener.public_url.as_ref().map_or("", PublicUrl::path)
    }

    /// The path as the client sent it to the authority: with the path of `public_url`, which a proxy may have removed.
    pub fn public_path(&self) -> Cow<'_, str> {
        let url = self.0.peer.listener.public_url.as_ref().filter(|url| !url.path().is_empty());
        let is_public = |url: &&PublicUrl| self.0.had_prefix || is_same_authority(url.authority(), self.authority());
        match url.filter(is_public) {
            Some(url) => format!("{}{}", url.path(), self.path()).into(),
            None => self.path().into(),
        }
    }

    /// The parts that a publisher's signature covers; `path` is [`RequestContext::public_path`].
    pub fn signed_head<'a>(&'a self, path: &'a str) -> RequestHead<'a> {
        RequestHead {
            method: self.method(),
            authority: self.authority(),
            path,
            query: self.query(),
            headers: self.headers(),
        }
    }

    /// The text of a header that occurs once.
    pub fn header(&self, name: header::HeaderName) -> Option<&str> {
        let mut values = self.headers().get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        }
    }

    pub fn peer(&self) -> &HttpPeer {
        &self.0.peer
    }

    /// The client's address, behind trusted proxies.
    pub fn client(&self) -> Option<ClientAddr> {
        self.0.client
    }

    /// The socket, once the response is 101.
    pub fn upgrade(&self) -> Option<OnUpgrade> {
        self.0.upgrade.clone()
    }

    /// The client's address as a holder of waiting names.
    pub fn holder(&self) -> Holder {
        Holder::of_address(self.0.client.map(ClientAddr::limit_key))
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

/// The channel named by a percent-encoded path segment.
pub fn channel_in(segment: &str) -> Result<ChannelName, Refusal> {
    let invalid = |detail: String| Refusal::new(ErrorCode::ChannelInvalid, detail);
    let name = percent_encoding::percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| invalid("the channel name is not UTF-8".into()))?;
    ChannelName::parse(&name).map_err(|error| invalid(error.to_string()))
}
