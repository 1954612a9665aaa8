//! Errors of outgoing requests, for logs and metrics. No variant contains request data.

use std::io;

use http_body_util::LengthLimitError;

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("unusable certificate authority: {0}")]
    Authorities(rustls::Error),
    #[error("the host name has no address")]
    Name,
    #[error("the host has a private or special address; egress_private_hosts allows private ones")]
    AddressRefused,
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// Failed TLS handshake or certificate check.
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    /// Invalid or truncated HTTP.
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request is not valid HTTP")]
    Request,
    #[error("the response is a redirect, which is not followed")]
    Redirected,
    #[error("the response is larger than 256 KiB")]
    TooLarge,
    #[error("no complete response within 5 s")]
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
