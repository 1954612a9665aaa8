//! Why a login or a logout token is refused, for the log. The browser receives an error code only.

use std::fmt;

use crate::protocol::ErrorCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginError {
    /// This browser has no matching pending login: none, expired, of another state, or already used.
    NotPending(&'static str),
    /// The provider refused. Holds its error code if that is registered (RFC 6749 section 4.1.2.1).
    Refused(&'static str),
    /// The provider's answer cannot be trusted. Holds the reason.
    Untrusted(&'static str),
    /// A claim of the ID token or logout token is missing or wrong.
    Claim(&'static str),
    /// The token endpoint returned an error or an unreadable answer.
    CodeRefused(&'static str),
    /// The provider is unreachable or failing.
    Unavailable(&'static str),
    /// The claims that rules need do not fit into a cookie. Holds the size in bytes.
    TooLarge(usize),
    NoRandomness,
}

impl LoginError {
    /// The code that the browser receives.
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
            Self::NotPending(what) => write!(f, "no pending login: {what}"),
            Self::Refused(error) => write!(f, "login refused by the provider: {error}"),
            Self::Untrusted(what) => write!(f, "untrusted answer of the provider: {what}"),
            Self::Claim(name) => write!(f, "missing or wrong claim {name}"),
            Self::CodeRefused(what) => write!(f, "code not redeemed: {what}"),
            Self::Unavailable(what) => write!(f, "provider unavailable: {what}"),
            Self::TooLarge(size) => write!(
                f,
                "session cookie of {size} bytes is too large, browsers accept 4096; claims used by rules are too large, \
                 or the person has too many groups"
            ),
            Self::NoRandomness => f.write_str("the operating system returned no random bytes"),
        }
    }
}

impl std::error::Error for LoginError {}

impl From<crate::auth::seal::NoRandomness> for LoginError {
    fn from(_: crate::auth::seal::NoRandomness) -> Self {
        Self::NoRandomness
    }
}
