//! Why a login or a logout token is refused, for the log. The browser receives an error code only.

use crate::protocol::ErrorCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// This browser has no matching pending login: none, expired, of another state, or already used.
    #[error("no pending login: {0}")]
    NotPending(&'static str),
    /// The provider refused. Holds its error code if that is registered (RFC 6749 section 4.1.2.1).
    #[error("login refused by the provider: {0}")]
    Refused(&'static str),
    /// The provider's answer cannot be trusted. Holds the reason.
    #[error("untrusted answer of the provider: {0}")]
    Untrusted(&'static str),
    /// A claim of the ID token or logout token is missing or wrong.
    #[error("missing or wrong claim {0}")]
    Claim(&'static str),
    /// The token endpoint returned an error or an unreadable answer.
    #[error("code not redeemed: {0}")]
    CodeRefused(&'static str),
    /// The provider is unreachable or failing.
    #[error("provider unavailable: {0}")]
    Unavailable(&'static str),
    /// The claims that rules need do not fit into a cookie. Holds the size in bytes.
    #[error(
        "session cookie of {0} bytes is too large, browsers accept 4096; claims used by rules are too large, \
         or the person has too many groups"
    )]
    TooLarge(usize),
    #[error("the operating system returned no random bytes")]
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

impl From<crate::auth::seal::NoRandomness> for LoginError {
    fn from(_: crate::auth::seal::NoRandomness) -> Self {
        Self::NoRandomness
    }
}
