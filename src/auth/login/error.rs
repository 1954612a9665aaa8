//! Why a login or a logout token is refused, for the log. People are told a code alone.

use std::fmt;

use crate::protocol::ErrorCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginError {
    /// No pending login in this browser fits: none, expired, of another state, or it came back before.
    NotPending(&'static str),
    /// The provider said no; its error code if it is one of the registered ones (RFC 6749 section 4.1.2.1).
    Refused(&'static str),
    /// The provider's answer cannot be trusted, and why.
    Untrusted(&'static str),
    /// A claim of the ID token or logout token is missing or wrong.
    Claim(&'static str),
    /// What the provider answered to the code: an error, or nothing that can be read.
    CodeRefused(&'static str),
    /// The provider cannot be reached, or has trouble of its own.
    Unavailable(&'static str),
    /// What rules ask for does not fit into a cookie.
    TooLarge(usize),
    NoRandomness,
}

impl LoginError {
    /// What people are told.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::NotPending(_) => ErrorCode::LoginExpired,
            Self::Refused(_) => ErrorCode::LoginRefused,
            Self::Untrusted(_) | Self::Claim(_) | Self::CodeRefused(_) => ErrorCode::LoginFailed,
            Self::Unavailable(_) => ErrorCode::LoginUnavailable,
            Self::TooLarge(_) => ErrorCode::SessionTooLarge,
            Self::NoRandomness => ErrorCode::Internal,
        }
    }
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPending(what) => write!(f, "no login is pending here: {what}"),
            Self::Refused(error) => write!(f, "the provider refused: {error}"),
            Self::Untrusted(what) => write!(f, "the provider's answer is not trusted: {what}"),
            Self::Claim(name) => write!(f, "the claim {name} is missing or wrong"),
            Self::CodeRefused(what) => write!(f, "the provider did not redeem the code: {what}"),
            Self::Unavailable(what) => write!(f, "the provider cannot be used now: {what}"),
            Self::TooLarge(size) => write!(
                f,
                "the session would need a cookie of {size} bytes, and browsers keep 4096; rules ask for claims that are \
                 too large, or the person has too many groups"
            ),
            Self::NoRandomness => f.write_str("the operating system gave no random bytes"),
        }
    }
}

impl std::error::Error for LoginError {}

impl From<crate::auth::seal::NoRandomness> for LoginError {
    fn from(_: crate::auth::seal::NoRandomness) -> Self {
        Self::NoRandomness
    }
}
