//! Refusals as HTTP responses: RFC 9457 `application/problem+json`.

use std::collections::HashMap;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use metrics::{Counter, counter};
use warp::Reply;

use crate::protocol::{ErrorCode, Refusal};
use crate::transport::endpoints::Endpoint;

/// The problem types are relative references: they resolve to a page of the gateway itself.
const TYPE_BASE: &str = "/problems/";

pub fn response(refusal: &Refusal) -> warp::reply::Response {
    let Refusal { code, retry_after, .. } = refusal;
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(body(refusal).to_string()).into_response();
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(wait) = retry_after {
        // Rounded up: RFC 9110 section 10.2.3 has no fractions of a second.
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)));
    } else if code.is_temporary() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    match code {
        // RFC 9110 section 15.5.2: a 401 names an authentication scheme.
        ErrorCode::Unauthenticated => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ if status == StatusCode::UNAUTHORIZED => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Signature"));
        }
        ErrorCode::UpgradeRequired => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        _ => {}
    }
    // Read by the edge, which counts refusals.
    response.extensions_mut().insert(*code);
    response
}

/// The refusal of a method that the endpoint does not accept, with those that it does.
pub fn method_not_allowed(endpoint: &Endpoint) -> warp::reply::Response {
    let mut response = response(&ErrorCode::MethodNotAllowed.into());
    add_allow(response.headers_mut(), endpoint);
    response
}

/// RFC 9110 section 15.5.6: the methods that the endpoint accepts.
pub fn add_allow(headers: &mut HeaderMap, endpoint: &Endpoint) {
    headers.extend(HeaderValue::try_from(endpoint.methods.join(", ")).map(|methods| (header::ALLOW, methods)));
}

/// The problem as a JSON object.
pub fn body(refusal: &Refusal) -> serde_json::Value {
    let Refusal { code, detail, .. } = refusal;
    serde_json::json!({
        "type": format!("{TYPE_BASE}{}", code.slug()),
        "title": code.title(),
        "status": code.status(),
        "detail": detail,
        "temporary": refusal.is_temporary(),
    })
}

/// `lastmile_refusals_total{type}`, registered with the recorder that is current where this is made.
pub struct Refusals(HashMap<ErrorCode, Counter>);

impl Default for Refusals {
    fn default() -> Self {
        let counter = |code: ErrorCode| (code, counter!("lastmile_refusals_total", "type" => code.slug()));
        Self(ErrorCode::ALL.into_iter().map(counter).collect())
    }
}

impl Refusals {
    pub fn count(&self, code: ErrorCode) {
        if let Some(counter) = self.0.get(&code) {
            counter.increment(1);
        }
    }
}

/// The text of a problem type's page.
pub fn describe(slug: &str) -> Option<String> {
    let code = ErrorCode::ALL.into_iter().find(|code| code.slug() == slug)?;
    Some(format!("{} (HTTP {}): {}\n", code.slug(), code.status(), code.title()))
}
