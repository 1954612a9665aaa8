//! CORS (Fetch standard): access of web pages of other origins.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use warp::Reply;

use super::request::RequestContext;
use super::{origin, problem};
use crate::protocol::ErrorCode;

/// Headers of the response to a preflight.
const PREFLIGHT: [(HeaderName, &str); 3] = [
    (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
    (header::ACCESS_CONTROL_ALLOW_HEADERS, "Accept, Authorization, Content-Type, Last-Event-ID"),
    (header::ACCESS_CONTROL_MAX_AGE, "600"),
];

/// The CORS decision on one request.
pub struct Cors {
    /// The request's origin, if it is on the listener's list.
    allowed: Option<HeaderValue>,
    is_preflight: bool,
}

impl Cors {
    /// `None` for an endpoint without CORS.
    pub fn of(call: &RequestContext) -> Option<Self> {
        if !call.endpoint().is_some_and(|endpoint| endpoint.has_cors) {
            return None;
        }
        let origin = call.header(header::ORIGIN).filter(|origin| origin::is_listed(call, origin));
        let is_preflight = call.method() == "OPTIONS"
            && call.headers().contains_key(header::ORIGIN)
            && call.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        Some(Self { allowed: origin.and_then(|origin| HeaderValue::from_str(origin).ok()), is_preflight })
    }

    /// The response to a preflight request; `None` for any other request.
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

    /// Lets the page read a response, also a refusal.
    pub fn add_headers(&self, headers: &mut HeaderMap) {
        headers.insert(header::VARY, HeaderValue::from_static("Origin, Accept, Authorization, Cookie"));
        if let Some(origin) = &self.allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After"));
        }
    }
}
