//! The client's one error type. Its codes are those of the protocol's tables.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;

/// A gateway's text is cut to this length.
const MAX_REMOTE_TEXT_CHARS: usize = 1000;

/// A refusal by the gateway, a failure, or the end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Error {
    /// A code of the protocol's tables (`forbidden`, `channel_closed`, `rate_limited`), or one of this client:
    ///
    /// | code | meaning |
    /// |---|---|
    /// | `connection_lost` | the connection broke; the outcome of pending requests is unknown |
    /// | `unreachable` | no connection to the gateway |
    /// | `tls` | the gateway's certificate or the given authorities are unusable |
    /// | `ping_timeout` | the gateway sent nothing in time |
    /// | `timeout` | no response in time |
    /// | `closed` | closed by this side |
    /// | `token` | no token is available |
    /// | `key` | the private key is unusable |
    /// | `url` | the gateway URL is invalid |
    /// | `invalid` | the value cannot be sent |
    /// | `unexpected` | the response cannot be parsed |
    /// | `no_randomness` | the operating system returned no random bytes |
    pub code: Cow<'static, str>,
    /// Description for people. Programs use `code`.
    pub message: String,
    /// Whether a retry can succeed.
    pub temporary: bool,
    /// HTTP status or WebSocket close code, if the gateway sent one.
    pub status: Option<u16>,
    /// Minimum wait that the gateway asks for (`Retry-After`).
    pub retry_after: Option<Duration>,
}

impl Error {
    /// Creates an error that a retry cannot fix, for instance in a [`crate::TokenSource`].
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), temporary: false, status: None, retry_after: None }
    }

    /// Creates an error after which a retry can succeed.
    pub fn temporary(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { temporary: true, ..Self::new(code, message) }
    }

    pub(crate) fn connection_lost(message: impl Into<String>) -> Self {
        Self::temporary("connection_lost", message)
    }

    /// `why` must not contain any part of a key.
    pub(crate) fn key(why: &str) -> Self {
        Self::new("key", why)
    }

    pub(crate) fn closed() -> Self {
        Self::new("closed", "closed by this side")
    }

    pub(crate) fn unexpected() -> Self {
        Self::new("unexpected", "the gateway's response cannot be parsed")
    }

    /// Builds the error for a close code of a connection or of one channel.
    ///
    /// Codes from 4500 on are final. So are the RFC 6455 section 7.4.1 codes for frames that the gateway cannot accept:
    /// a new connection would send the same frames again.
    pub(crate) fn from_close(code: u16, reason: &str) -> Self {
        let is_final = (4500..5000).contains(&code) || matches!(code, 1002 | 1003 | 1007 | 1009);
        let name = if reason.is_empty() { format!("closed_{code}") } else { sanitized(reason) };
        let message = format!("closed by the gateway: {code} {name}");
        Self { temporary: !is_final, status: Some(code), ..Self::new(name, message) }
    }

    /// Builds the error for an HTTP response without success. The body is an RFC 9457 problem, unless a proxy wrote it.
    pub(crate) fn from_response(status: StatusCode, headers: &http::HeaderMap, body: &[u8]) -> Self {
        let wait = headers.get(http::header::RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
        let error = match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => problem.into(),
            Err(_) => {
                let message = format!("HTTP status {}", status.as_u16());
                Self {
                    temporary: is_temporary(status.as_u16()) || status.as_u16() == 429,
                    ..Self::new("http", message)
                }
            }
        };
        Self { status: Some(status.as_u16()), retry_after: wait.map(Duration::from_secs), ..error }
    }
}

/// The members of an RFC 9457 problem that this client uses.
#[derive(Deserialize)]
pub(crate) struct Problem {
    r#type: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    status: u16,
    temporary: Option<bool>,
}

impl From<Problem> for Error {
    fn from(Problem { r#type, title, detail, status, temporary }: Problem) -> Self {
        let code = sanitized(r#type.rsplit('/').next().unwrap_or_default()).replace('-', "_");
        let temporary = temporary.unwrap_or_else(|| is_temporary(status) || code == "rate_limited");
        let message = sanitized(if detail.is_empty() { &title } else { &detail });
        Self { temporary, status: Some(status), ..Self::new(code, message) }
    }
}

/// Statuses of conditions that pass: engine unavailable, draining gateway, proxy without a gateway.
fn is_temporary(status: u16) -> bool {
    matches!(status, 408 | 502..=504)
}

/// Bounds a remote text and replaces its control characters.
pub(crate) fn sanitized(text: &str) -> String {
    text.chars().take(MAX_REMOTE_TEXT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Error {}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_close_codes_are_not_temporary() {
        for (code, temporary) in [(4000, true), (4003, true), (4499, true), (4500, false), (4504, false), (1009, false)]
        {
            assert_eq!(Error::from_close(code, "name").temporary, temporary, "{code}");
        }
        assert_eq!(Error::from_close(1001, "").code, "closed_1001");
    }

    #[test]
    fn problem_responses_have_codes() {
        let body =
            br#"{"type":"/problems/limit-reached","title":"A limit is reached.","status":429,"detail":"no more"}"#;
        let mut headers = http::HeaderMap::new();
        headers.insert("retry-after", http::HeaderValue::from_static("7"));
        let error = Error::from_response(StatusCode::TOO_MANY_REQUESTS, &headers, body);
        assert_eq!((&*error.code, error.temporary, error.status), ("limit_reached", false, Some(429)));
        assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
        // A gateway that has just started asks for a newer signature.
        let stale = br#"{"type":"/problems/signature-stale","title":"t","status":401,"detail":"d","temporary":true}"#;
        assert!(Error::from_response(StatusCode::UNAUTHORIZED, &headers, stale).temporary);
        let error = Error::from_response(StatusCode::BAD_GATEWAY, &http::HeaderMap::new(), b"<html>");
        assert_eq!((&*error.code, error.temporary), ("http", true));
    }
}
