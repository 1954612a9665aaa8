//! What web pages of other origins may do here (the Fetch standard's CORS protocol): the one place for every endpoint
//! that browsers use.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use warp::Reply;

use super::request::RequestContext;
use super::{origin, problem};
use crate::protocol::ErrorCode;

/// What a preflight is told.
const PREFLIGHT: [(HeaderName, &str); 3] = [
    (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
    (header::ACCESS_CONTROL_ALLOW_HEADERS, "Accept, Authorization, Content-Type, Last-Event-ID"),
    (header::ACCESS_CONTROL_MAX_AGE, "600"),
];

/// The verdict over a request to one of these endpoints.
pub struct Cors {
    /// The origin that asks, if the listener names it.
    allowed: Option<HeaderValue>,
    is_preflight: bool,
}

impl Cors {
    /// `None` for an endpoint that is not for pages of other origins.
    pub fn of(call: &RequestContext) -> Option<Self> {
        if !call.endpoint().is_some_and(|endpoint| endpoint.has_cors) {
            return None;
        }
        let asked = call.header(header::ORIGIN).filter(|origin| origin::is_listed(call, origin));
        let is_preflight = call.method() == "OPTIONS"
            && call.headers().contains_key(header::ORIGIN)
            && call.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        Some(Self { allowed: asked.and_then(|origin| HeaderValue::from_str(origin).ok()), is_preflight })
    }

    /// The answer to a browser that asks before it sends the request itself.
    pub fn preflight(&self) -> Option<warp::reply::Response> {
        if !self.is_preflight {
            return None;
        }
        if self.allowed.is_none() {
            return Some(problem::response(&ErrorCode::OriginForbidden.into()));
        }
        let mut response = Response::new("").into_response();
        *response.status_mut() = StatusCode::NO_CONTENT;
        for (name, value) in PREFLIGHT {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        Some(response)
    }

    /// Says on an answer, also on a refusal, that the page may read it.
    pub fn add_headers(&self, headers: &mut HeaderMap) {
        headers.insert(header::VARY, HeaderValue::from_static("Origin, Accept, Authorization, Cookie"));
        if let Some(origin) = &self.allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After"));
        }
    }
}
