//! The one table of how requests and commands are refused.
//!
//! The same refusal is an RFC 9457 problem on HTTP and an `error` frame on a WebSocket.

use std::borrow::Cow;
use std::time::Duration;

/// What was refused, in the words that clients branch on.
///
/// On HTTP the problem type ends in [`ErrorCode::slug`] (`…/problems/key-unknown`), on a WebSocket
/// `code` is [`ErrorCode::name`] (`key_unknown`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    // Publishers: the signature.
    SignatureMissing,
    SignatureInvalid,
    SignatureStale,
    SignatureReplayed,
    KeyUnknown,
    KeyExpired,
    DigestMissing,
    DigestMismatch,
    ChannelForbidden,
    // Subscribers: the token and the rules.
    Unauthenticated,
    Forbidden,
    OriginForbidden,
    // The login.
    LoginExpired,
    LoginRefused,
    LoginFailed,
    LoginUnavailable,
    SessionTooLarge,
    // The content.
    Malformed,
    ChannelInvalid,
    CursorInvalid,
    MessageTooLarge,
    IdempotencyMismatch,
    NotSubscribed,
    AlreadySubscribed,
    UnsupportedMediaType,
    // The state of things.
    NotFound,
    HostUnknown,
    MethodNotAllowed,
    UpgradeRequired,
    ChannelUnknown,
    ChannelExists,
    ChannelEnded,
    PeerAbsent,
    MessageUnknown,
    ReplyUnknown,
    PublisherAbsent,
    AnswerTimeout,
    ConnectionLimit,
    LimitReached,
    RateLimited,
    EngineUnavailable,
    Draining,
    Internal,
}

impl ErrorCode {
    /// Every code, for tables in documents and tests.
    pub const ALL: &[ErrorCode] = &[
        Self::SignatureMissing,
        Self::SignatureInvalid,
        Self::SignatureStale,
        Self::SignatureReplayed,
        Self::KeyUnknown,
        Self::KeyExpired,
        Self::DigestMissing,
        Self::DigestMismatch,
        Self::ChannelForbidden,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::OriginForbidden,
        Self::LoginExpired,
        Self::LoginRefused,
        Self::LoginFailed,
        Self::LoginUnavailable,
        Self::SessionTooLarge,
        Self::Malformed,
        Self::ChannelInvalid,
        Self::CursorInvalid,
        Self::MessageTooLarge,
        Self::IdempotencyMismatch,
        Self::NotSubscribed,
        Self::AlreadySubscribed,
        Self::UnsupportedMediaType,
        Self::NotFound,
        Self::HostUnknown,
        Self::MethodNotAllowed,
        Self::UpgradeRequired,
        Self::ChannelUnknown,
        Self::ChannelExists,
        Self::ChannelEnded,
        Self::PeerAbsent,
        Self::MessageUnknown,
        Self::ReplyUnknown,
        Self::PublisherAbsent,
        Self::AnswerTimeout,
        Self::ConnectionLimit,
        Self::LimitReached,
        Self::RateLimited,
        Self::EngineUnavailable,
        Self::Draining,
        Self::Internal,
    ];

    /// The last part of the problem type.
    pub fn slug(self) -> &'static str {
        self.entry().0
    }

    /// The word on a WebSocket: the slug with underscores.
    pub fn name(self) -> String {
        self.slug().replace('-', "_")
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        self.entry().1
    }

    /// A sentence for people; the same for every occurrence.
    pub fn title(self) -> &'static str {
        self.entry().2
    }

    /// Whether the same request may succeed later.
    pub fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::EngineUnavailable
                | Self::Draining
                | Self::PeerAbsent
                | Self::PublisherAbsent
                | Self::AnswerTimeout
                | Self::LoginUnavailable
        )
    }

    fn entry(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::SignatureMissing => ("signature-missing", 401, "The request is not signed."),
            Self::SignatureInvalid => ("signature-invalid", 401, "The signature does not fit the request."),
            Self::SignatureStale => ("signature-stale", 401, "The signature is too old, or from the future."),
            Self::SignatureReplayed => ("signature-replayed", 401, "This signature was used before."),
            Self::KeyUnknown => ("key-unknown", 401, "The key is not on the whitelist."),
            Self::KeyExpired => ("key-expired", 401, "The key is past its last day."),
            Self::DigestMissing => ("digest-missing", 401, "A body needs a Content-Digest."),
            Self::DigestMismatch => ("digest-mismatch", 401, "The body does not fit its Content-Digest."),
            Self::ChannelForbidden => ("channel-forbidden", 403, "This key may not use this channel."),
            Self::Unauthenticated => ("unauthenticated", 401, "A valid token is needed."),
            Self::Forbidden => ("forbidden", 403, "This is not allowed."),
            Self::OriginForbidden => ("origin-forbidden", 403, "This origin is not allowed."),
            Self::LoginExpired => ("login-expired", 400, "This login is over."),
            Self::LoginRefused => ("login-refused", 403, "The identity provider refuses this login."),
            Self::LoginFailed => ("login-failed", 502, "The identity provider's answer cannot be used."),
            Self::LoginUnavailable => ("login-unavailable", 503, "The identity provider cannot be reached."),
            Self::SessionTooLarge => {
                ("session-too-large", 403, "What this account may do does not fit into a session.")
            }
            Self::Malformed => ("malformed", 400, "The request cannot be read."),
            Self::ChannelInvalid => ("channel-invalid", 400, "This is not the name of a channel."),
            Self::CursorInvalid => ("cursor-invalid", 400, "The cursor cannot be resumed from."),
            Self::MessageTooLarge => ("message-too-large", 413, "The message is larger than allowed."),
            Self::IdempotencyMismatch => {
                ("idempotency-mismatch", 422, "This Idempotency-Key belongs to another request.")
            }
            Self::NotSubscribed => ("not-subscribed", 409, "There is no such subscription."),
            Self::AlreadySubscribed => ("already-subscribed", 409, "This subscription exists already."),
            Self::UnsupportedMediaType => ("unsupported-media-type", 415, "This content type is not understood here."),
            Self::NotFound => ("not-found", 404, "There is nothing here."),
            Self::HostUnknown => ("host-unknown", 421, "This gateway has another name."),
            Self::MethodNotAllowed => ("method-not-allowed", 405, "This method is not allowed here."),
            Self::UpgradeRequired => ("upgrade-required", 426, "This is a WebSocket endpoint."),
            Self::ChannelUnknown => ("channel-unknown", 404, "There is no such channel."),
            Self::ChannelExists => ("channel-exists", 409, "The channel exists with other limits."),
            Self::ChannelEnded => ("channel-ended", 409, "The channel has ended."),
            Self::PeerAbsent => ("peer-absent", 409, "No other peer is in the room."),
            Self::MessageUnknown => ("message-unknown", 404, "This message is not known any more."),
            Self::ReplyUnknown => ("reply-unknown", 404, "There is no such reply, or not any more."),
            Self::PublisherAbsent => ("publisher-absent", 503, "The publisher did not take the reply in time."),
            Self::AnswerTimeout => ("answer-timeout", 504, "The publisher did not answer in time."),
            Self::ConnectionLimit => ("connection-limit", 429, "There are as many connections as allowed."),
            Self::LimitReached => ("limit-reached", 429, "A limit is reached."),
            Self::RateLimited => ("rate-limited", 429, "Too many requests."),
            Self::EngineUnavailable => ("engine-unavailable", 503, "Publications cannot be taken now."),
            Self::Draining => ("draining", 503, "This node is shutting down."),
            Self::Internal => ("internal", 500, "Something failed here."),
        }
    }
}

/// A request or command that is refused; the connection stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: ErrorCode,
    /// What to do about it. Never a secret, never a cause that helps an attacker.
    pub detail: Cow<'static, str>,
    /// When to try again, where that is known.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    pub fn new(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), retry_after: None }
    }

    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, code.title())
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.slug(), self.detail)
    }
}

impl std::error::Error for Refusal {}
