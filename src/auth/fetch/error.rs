//! Why a fetch failed, for logs and metrics. No variant carries what was sent.

use std::fmt;
use std::io;

use http_body_util::LengthLimitError;

#[derive(Debug)]
pub enum FetchError {
    /// The certificate authorities cannot be used.
    Authorities(rustls::Error),
    /// The host's name leads nowhere.
    Name,
    /// Every address of the host is one that the gateway must not reach.
    AddressRefused,
    Connect(io::Error),
    /// No TLS, or a certificate that does not fit.
    Tls(io::Error),
    /// Not HTTP, or cut off.
    Http(hyper::Error),
    /// What was to be sent is no valid HTTP.
    Request,
    /// Redirects are not followed.
    Redirected,
    /// More than 256 KiB.
    TooLarge,
    /// Five seconds have passed.
    TimedOut,
}

impl FetchError {
    /// The word in metrics.
    pub fn word(&self) -> &'static str {
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
        // The body gives nothing else.
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
            Self::Authorities(error) => write!(f, "a certificate authority cannot be used: {error}"),
            Self::Name => f.write_str("the host name has no address"),
            Self::AddressRefused => {
                f.write_str("the host has a private or special address; egress_private_hosts allows private ones")
            }
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Tls(error) => write!(f, "TLS failed: {error}"),
            Self::Http(error) => write!(f, "HTTP failed: {error}"),
            Self::Request => f.write_str("the request is not valid HTTP"),
            Self::Redirected => f.write_str("the answer is a redirect, which is not followed"),
            Self::TooLarge => f.write_str("the answer is larger than 256 KiB"),
            Self::TimedOut => f.write_str("no whole answer within 5 s"),
        }
    }
}

impl std::error::Error for FetchError {}
