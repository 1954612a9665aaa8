//! Errors of outgoing requests, for logs and metrics. No variant contains request data.

use std::fmt;
use std::io;

use http_body_util::LengthLimitError;

#[derive(Debug)]
pub enum FetchError {
    /// The certificate authorities are unusable.
    Authorities(rustls::Error),
    /// The host name cannot be resolved.
    Name,
    /// Every address of the host is forbidden.
    AddressRefused,
    Connect(io::Error),
    /// Failed TLS handshake or certificate check.
    Tls(io::Error),
    /// Invalid or truncated HTTP.
    Http(hyper::Error),
    /// The request is not valid HTTP.
    Request,
    /// Redirects are not followed.
    Redirected,
    /// More than 256 KiB.
    TooLarge,
    /// Five seconds have passed.
    TimedOut,
}

impl FetchError {
    /// The label in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Authorities(_) | Self::Tls(_) => "tls",
            Self::Name => "name",
            Self::AddressRefused => "address",
            Self::Connect(_) => "connect",
            Self::Http(_) | Self::Request => "http",
            Self::Redirected => "redirect",
            Self::TooLarge => "too_large",
            Self::TimedOut => "timeout",
        }
    }

    pub(super) fn of_body(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        if error.is::<LengthLimitError>() {
            return Self::TooLarge;
        }
        // The body yields no other errors.
        error.downcast::<hyper::Error>().map_or(Self::Request, |error| Self::Http(*error))
    }
}

impl From<hyper::Error> for FetchError {
    fn from(error: hyper::Error) -> Self {
        Self::Http(error)
    }
}

impl From<http::Error> for FetchError {
    fn from(_: http::Error) -> Self {
        Self::Request
    }
}

impl From<http::header::InvalidHeaderValue> for FetchError {
    fn from(_: http::header::InvalidHeaderValue) -> Self {
        Self::Request
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authorities(error) => write!(f, "unusable certificate authority: {error}"),
            Self::Name => f.write_str("the host name has no address"),
            Self::AddressRefused => {
                f.write_str("the host has a private or special address; egress_private_hosts allows private ones")
            }
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Tls(error) => write!(f, "TLS failed: {error}"),
            Self::Http(error) => write!(f, "HTTP failed: {error}"),
            Self::Request => f.write_str("the request is not valid HTTP"),
            Self::Redirected => f.write_str("the response is a redirect, which is not followed"),
            Self::TooLarge => f.write_str("the response is larger than 256 KiB"),
            Self::TimedOut => f.write_str("no complete response within 5 s"),
        }
    }
}

impl std::error::Error for FetchError {}
