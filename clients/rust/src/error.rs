//! Why something did not work or is over: one type, with the names of the protocol's tables.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;

/// The longest text of a gateway that is kept, in characters.
const MAX_REMOTE_TEXT_CHARS: usize = 1000;

/// Why something was refused, did not work or is over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Error {
    /// A name of the protocol's tables (`forbidden`, `channel_closed`, `rate_limited`), or this client's own:
    ///
    /// | code | meaning |
    /// |---|---|
    /// | `connection_lost` | the connection broke; nobody knows whether what was on its way arrived |
    /// | `unreachable` | there is no connection to the gateway |
    /// | `tls` | the certificate, or the authorities to check it with, cannot be used |
    /// | `ping_timeout` | the gateway showed no sign of life |
    /// | `timeout` | there was no answer in time |
    /// | `closed` | this side closed |
    /// | `token` | there is no token to be had |
    /// | `key` | the private key cannot be used |
    /// | `url` | this is no address of a gateway |
    /// | `invalid` | this cannot be sent |
    /// | `unexpected` | the answer cannot be read |
    /// | `no_randomness` | the operating system gave no random bytes |
    pub code: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// Whether the same may work later.
    pub temporary: bool,
    /// The HTTP status or close code, where there is one.
    pub status: Option<u16>,
    /// How long the gateway asks to wait, where it does.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// An error that trying again does not help, for instance of a [`crate::TokenSource`].
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), temporary: false, status: None, retry_after: None }
    }

    /// An error after which the same may work later.
    pub fn temporary(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { temporary: true, ..Self::new(code, message) }
    }

    pub(crate) fn connection_lost(message: impl Into<String>) -> Self {
        Self::temporary("connection_lost", message)
    }

    /// The text never holds any part of a key.
    pub(crate) fn key(why: &str) -> Self {
        Self::new("key", why)
    }

    pub(crate) fn closed() -> Self {
        Self::new("closed", "this side closed")
    }

    pub(crate) fn unexpected() -> Self {
        Self::new("unexpected", "the gateway's answer cannot be read")
    }

    /// How the gateway closed a connection or ended a channel.
    ///
    /// 4500 and above say not to come back; so do the codes of RFC 6455 section 7.4.1 for what the other side does not
    /// understand, because the same would be sent again.
    pub(crate) fn from_close(code: u16, reason: &str) -> Self {
        let is_final = (4500..5000).contains(&code) || matches!(code, 1002 | 1003 | 1007 | 1009);
        let name = if reason.is_empty() { format!("closed_{code}") } else { sanitized(reason) };
        let message = format!("closed by the gateway: {code} {name}");
        Self { temporary: !is_final, status: Some(code), ..Self::new(name, message) }
    }

    /// The error that an answer stands for which is no success: RFC 9457, if it is a problem at all.
    pub(crate) fn from_response(status: StatusCode, headers: &http::HeaderMap, body: &[u8]) -> Self {
        let wait = headers.get(http::header::RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
        let error = match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => problem.into(),
            Err(_) => {
                let message = format!("the answer was HTTP {}", status.as_u16());
                Self {
                    temporary: is_temporary(status.as_u16()) || status.as_u16() == 429,
                    ..Self::new("http", message)
                }
            }
        };
        Self { status: Some(status.as_u16()), retry_after: wait.map(Duration::from_secs), ..error }
    }
}

/// The members of a problem that matter here.
#[derive(Deserialize)]
pub(crate) struct Problem {
    r#type: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    status: u16,
}

impl From<Problem> for Error {
    fn from(Problem { r#type, title, detail, status }: Problem) -> Self {
        let code = sanitized(r#type.rsplit('/').next().unwrap_or_default()).replace('-', "_");
        let temporary = is_temporary(status) || code == "rate_limited";
        let message = sanitized(if detail.is_empty() { &title } else { &detail });
        Self { temporary, status: Some(status), ..Self::new(code, message) }
    }
}

/// What is about the moment: the engine, a drain, a proxy without a gateway.
fn is_temporary(status: u16) -> bool {
    matches!(status, 408 | 502..=504)
}

/// A text of the other side, bounded and without control characters.
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
        let error = Error::from_response(StatusCode::BAD_GATEWAY, &http::HeaderMap::new(), b"<html>");
        assert_eq!((&*error.code, error.temporary), ("http", true));
    }
}
