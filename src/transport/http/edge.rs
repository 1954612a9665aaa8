//! Request handling around the filters: framing checks, client address, CORS, headers of every response.

use std::convert::Infallible;
use std::net::Ipv6Addr;
use std::sync::Arc;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, Version, header};
use hyper::body::{Body, Incoming};
use tower_service::Service;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::cors::Cors;
use super::delayed_body::DelayedBody;
use super::request::{ContextData, HttpPeer, RequestContext};
use super::{host, problem};
use crate::auth::client_addr::{ClientAddr, client_address, is_trusted};
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::accept::stream_limits::AnonymousStream;
use crate::transport::config::PublicUrl;
use crate::transport::credential;
use crate::transport::endpoints;
use crate::transport::state::AppState;

/// Handles one request. `is_head_valid`: the bytes of its head have one meaning only.
pub async fn handle(
    app: Arc<AppState>,
    peer: HttpPeer,
    routes: BoxedFilter<(Response,)>,
    is_head_valid: bool,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    let is_tls = peer.listener.tls.is_some();
    let is_http2 = request.version() == Version::HTTP_2;
    let has_body = !request.body().is_end_stream();
    let wants_upgrade = request.headers().contains_key(header::UPGRADE);
    let has_our_version = has_our_websocket_version(request.headers());
    let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let prepared = if is_head_valid { prepare(&app, peer, request) } else { Err(ambiguous_head()) };
    let cors = prepared.as_ref().ok().and_then(|request| request.extensions().get()).and_then(Cors::of);
    // After bad framing or a failed upgrade, the start of the next request cannot be trusted. Nor is it known after a
    // chunked body, so that the head behind it could not be checked.
    let is_last = prepared.is_err() || wants_upgrade || is_chunked;
    let mut anonymous: Option<AnonymousStream> = None;
    let mut response = match prepared {
        Ok(mut request) => match cors.as_ref().and_then(Cors::preflight) {
            Some(answer) => answer,
            None => {
                anonymous = request.extensions_mut().remove();
                let call = request.extensions().get::<RequestContext>().cloned();
                let mut response = warp::service(routes).call(request).await?;
                if let Some(call) = call {
                    credential::cookie::clear_if_dead(&app, &call, &mut response);
                }
                response
            }
        },
        Err(refusal) => problem::response(&refusal),
    };
    DelayedBody::complete(&mut response).await;
    if let Some(anonymous) = anonymous {
        response.extensions_mut().insert(anonymous);
    }
    if let Some(cors) = &cors {
        cors.add_headers(response.headers_mut());
    }
    let code = response.extensions().get::<ErrorCode>().copied();
    if let Some(code) = code {
        app.refusals.count(code);
    }
    let leaves_body = has_body && code.is_some_and(may_leave_body);
    if is_http2 {
        // RFC 9113 section 8.2.2 forbids connection fields, and a stream ends without them.
        response.headers_mut().remove(header::UPGRADE);
    } else if (is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS) || leaves_body {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if wants_upgrade && !has_our_version && response.status().is_client_error() {
        // RFC 6455 section 4.4: the version that the client should use.
        response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    add_security_headers(response.headers_mut(), is_tls);
    Ok(response)
}

fn has_our_websocket_version(headers: &HeaderMap) -> bool {
    let mut versions = headers.get_all(header::SEC_WEBSOCKET_VERSION).iter();
    matches!((versions.next(), versions.next()), (Some(version), None) if version == "13")
}

fn ambiguous_head() -> Refusal {
    Refusal::new(
        ErrorCode::Malformed,
        "the head has a bare LF, a fragment, two lengths, or a Transfer-Encoding other than chunked",
    )
}

/// Whether a request may have been refused before its body was read. Its connection cannot be reused then, and without
/// `Connection: close` the client would find that out with its next request.
fn may_leave_body(code: ErrorCode) -> bool {
    matches!(code.status(), 400 | 401 | 404 | 405 | 413 | 503)
}

fn prepare(app: &AppState, peer: HttpPeer, request: Request<Incoming>) -> Result<Request<Incoming>, Refusal> {
    let (mut head, body) = request.into_parts();
    check_framing(&head)?;
    let client = peer.address.and_then(|address| client_address(address, &head.headers, &app.limits.trusted_proxies));
    if let (Some(client), Some(address)) = (client, peer.address) {
        // Behind a trusted proxy each request may have another client; the first one counts for the connection.
        if client != ClientAddr::from(address) {
            peer.permit.assign(client).map_err(|_| Refusal::from(ErrorCode::ConnectionLimit))?;
        }
    }
    let had_prefix = remove_prefix(&mut head, peer.listener.public_url.as_ref());
    let endpoint = endpoints::find(head.uri.path());
    // The filters read only the URI.
    let (mut context_head, ()) = Request::new(()).into_parts();
    context_head.method = head.method.clone();
    context_head.uri = head.uri.clone();
    context_head.version = head.version;
    context_head.headers = std::mem::take(&mut head.headers);
    let is_proxied = peer.listener.public_url.is_some()
        && peer.address.is_none_or(|address| is_trusted(address, &app.limits.trusted_proxies));
    let call = RequestContext::new(ContextData {
        head: context_head,
        peer,
        client,
        endpoint,
        has_body: !body.is_end_stream(),
        upgrade: head.extensions.remove(),
        is_proxied,
        had_prefix,
    });
    host::check(&call)?;
    if let Some(anonymous) = admit_anonymous(app, &call)? {
        head.extensions.insert(anonymous);
    }
    head.extensions.insert(call);
    Ok(Request::from_parts(head, body))
}

/// Removes the path of `public_url`, if the proxy has not. Returns whether it did.
fn remove_prefix(head: &mut http::request::Parts, public_url: Option<&PublicUrl>) -> bool {
    let Some(url) = public_url.filter(|url| !url.path().is_empty()) else { return false };
    let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let rest = match target.strip_prefix(url.path()) {
        Some(rest) if rest.is_empty() || rest.starts_with('?') => format!("/{rest}"),
        Some(rest) if rest.starts_with('/') => rest.to_owned(),
        _ => return false,
    };
    let mut parts = head.uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(rest).ok();
    match Uri::from_parts(parts) {
        Ok(uri) => head.uri = uri,
        Err(_) => return false,
    }
    true
}

/// Counts a stream of HTTP/2 whose client shows no credential. A wrong one is refused, and its stream ends.
fn admit_anonymous(app: &AppState, call: &RequestContext) -> Result<Option<AnonymousStream>, Refusal> {
    let Some(streams) = call.peer().streams.as_ref().filter(|_| !credential::is_presented(call)) else {
        return Ok(None);
    };
    match streams.admit_anonymous() {
        Ok(stream) => Ok(Some(stream)),
        // Opened only here, because it costs more than to count.
        Err(_) if credential::cookie::is_valid(app, call) => Ok(None),
        Err(_) => Err(ErrorCode::ConnectionLimit.into()),
    }
}

fn check_framing(head: &http::request::Parts) -> Result<(), Refusal> {
    let malformed = |detail: &'static str| Refusal::new(ErrorCode::Malformed, detail);
    // `CONNECT host:80` has no path, and the filters rely on one.
    if head.uri.path_and_query().is_none() || !head.uri.path().starts_with('/') {
        return Err(malformed("the request has no path"));
    }
    // RFC 9112 section 6.3: two lengths allow request smuggling. HTTP/1 heads were checked before they were parsed.
    if head.headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err(malformed("the request has two lengths"));
    }
    check_host_syntax(head)?;
    // RFC 9113 section 8.3.1: `:authority` and Host must be equal.
    let authority = head.uri.authority().filter(|_| head.version == Version::HTTP_2);
    if let (Some(authority), Some(host)) = (authority, head.headers.get(header::HOST))
        && authority.as_str().as_bytes() != host.as_bytes()
    {
        return Err(malformed("the request has two hosts"));
    }
    Ok(())
}

/// RFC 9112 section 3.2: one valid Host; only HTTP/1.0 may omit it, and HTTP/2 has `:authority` instead.
fn check_host_syntax(head: &http::request::Parts) -> Result<(), Refusal> {
    let malformed = |detail: &'static str| Err(Refusal::new(ErrorCode::Malformed, detail));
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (host, authority) = (hosts.next(), head.uri.authority());
    if hosts.next().is_some() {
        return malformed("the request has two hosts");
    }
    let is_missing = match head.version {
        Version::HTTP_10 => false,
        Version::HTTP_2 => host.is_none() && authority.is_none(),
        _ => host.is_none(),
    };
    if is_missing {
        return malformed("the request has no host");
    }
    let is_valid = host.is_none_or(|host| host.to_str().is_ok_and(is_host))
        && authority.is_none_or(|authority| is_host(authority.as_str()));
    if is_valid { Ok(()) } else { malformed("the host is invalid") }
}

/// Host and port, without user information (RFC 9110 sections 4.2.4 and 7.2).
fn is_host(text: &str) -> bool {
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let host = authority.host();
    let port = text.strip_prefix(host).unwrap_or("@");
    let is_port =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let is_literal = |text: &str| text.strip_suffix(']').is_some_and(|text| text.parse::<Ipv6Addr>().is_ok());
    !host.is_empty() && is_port && host.strip_prefix('[').is_none_or(is_literal)
}

const SECURITY_HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'; object-src 'none'; require-trusted-types-for 'script'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

fn add_security_headers(headers: &mut HeaderMap, is_tls: bool) {
    for (name, value) in SECURITY_HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if is_tls {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
}
