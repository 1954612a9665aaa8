//! Error codes of refused requests and commands: one table.
//!
//! A refusal is an RFC 9457 problem on HTTP and an `error` frame on a WebSocket.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;

enum_table! {
    /// The kind of the refusal. Clients branch on it.
    ///
    /// On HTTP the problem type ends in [`ErrorCode::slug`] (`…/problems/key-unknown`), on a WebSocket
    /// `code` is [`ErrorCode::name`] (`key_unknown`).
    pub enum ErrorCode: (&'static str, u16, &'static str) {
        // Publishers: the signature.
        SignatureMissing => ("signature-missing", 401, "request is not signed"),
        SignatureInvalid => ("signature-invalid", 401, "signature does not verify"),
        SignatureStale => ("signature-stale", 401, "signature is too old or from the future"),
        SignatureReplayed => ("signature-replayed", 401, "nonce was already used"),
        KeyUnknown => ("key-unknown", 401, "key is not on the whitelist"),
        KeyExpired => ("key-expired", 401, "key has expired"),
        DigestMissing => ("digest-missing", 401, "body without Content-Digest"),
        DigestMismatch => ("digest-mismatch", 401, "body does not match its Content-Digest"),
        ChannelForbidden => ("channel-forbidden", 403, "key may not use this channel"),
        // Subscribers: token and channel rules.
        Unauthenticated => ("unauthenticated", 401, "valid token required"),
        IssuerUnavailable => ("issuer-unavailable", 503, "keys of the token's issuer are unavailable"),
        Forbidden => ("forbidden", 403, "not allowed"),
        OriginForbidden => ("origin-forbidden", 403, "origin is not allowed"),
        // The login.
        LoginExpired => ("login-expired", 400, "login has expired"),
        LoginRefused => ("login-refused", 403, "identity provider refused the login"),
        LoginFailed => ("login-failed", 502, "response of the identity provider is unusable"),
        LoginUnavailable => ("login-unavailable", 503, "identity provider is unreachable"),
        SessionTooLarge => ("session-too-large", 403, "session does not fit into a cookie"),
        // The content of a request or command.
        Malformed => ("malformed", 400, "malformed request"),
        ChannelInvalid => ("channel-invalid", 400, "invalid channel name"),
        CursorInvalid => ("cursor-invalid", 400, "invalid cursor"),
        MessageTooLarge => ("message-too-large", 413, "message is too large"),
        IdempotencyMismatch => ("idempotency-mismatch", 422, "Idempotency-Key belongs to another request"),
        NotSubscribed => ("not-subscribed", 409, "not subscribed"),
        AlreadySubscribed => ("already-subscribed", 409, "already subscribed"),
        UnsupportedMediaType => ("unsupported-media-type", 415, "unsupported content type"),
        // The state of channels, rooms and the node.
        NotFound => ("not-found", 404, "not found"),
        HostUnknown => ("host-unknown", 421, "unknown host name"),
        MethodNotAllowed => ("method-not-allowed", 405, "method not allowed"),
        UpgradeRequired => ("upgrade-required", 426, "WebSocket upgrade required"),
        ChannelUnknown => ("channel-unknown", 404, "unknown channel"),
        ChannelExists => ("channel-exists", 409, "channel exists with other limits"),
        ChannelEnded => ("channel-ended", 409, "channel has ended"),
        PeerAbsent => ("peer-absent", 409, "no other peer is in the room"),
        MessageUnknown => ("message-unknown", 404, "unknown or expired message"),
        ReplyUnknown => ("reply-unknown", 404, "unknown or expired reply"),
        PublisherAbsent => ("publisher-absent", 503, "publisher did not acknowledge the reply in time"),
        AnswerTimeout => ("answer-timeout", 504, "publisher did not answer in time"),
        ConnectionLimit => ("connection-limit", 429, "connection limit reached"),
        LimitReached => ("limit-reached", 429, "limit reached"),
        RateLimited => ("rate-limited", 429, "rate limit exceeded"),
        EngineUnavailable => ("engine-unavailable", 503, "engine unavailable, retry later"),
        Draining => ("draining", 503, "node is shutting down"),
        Internal => ("internal", 500, "internal error"),
    }
}

impl ErrorCode {
    /// The last part of the problem type.
    pub fn slug(self) -> &'static str {
        self.row().0
    }

    /// The `code` of `error` frames: the slug with underscores.
    pub fn name(self) -> String {
        self.slug().replace('-', "_")
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        self.row().1
    }

    /// The problem title: the same text for every occurrence.
    pub fn title(self) -> &'static str {
        self.row().2
    }

    /// Whether the same request may succeed later: the cause is not the client's. See also [`Refusal::is_temporary`].
    pub fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::IssuerUnavailable
                | Self::ConnectionLimit
                | Self::RateLimited
                | Self::EngineUnavailable
                | Self::Draining
                | Self::PeerAbsent
                | Self::PublisherAbsent
                | Self::AnswerTimeout
                | Self::LoginUnavailable
                | Self::LoginFailed
                | Self::Internal
        )
    }
}

/// A refused request or command. The connection stays open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", .code.slug())]
pub struct Refusal {
    pub code: ErrorCode,
    /// Advice for the developer of the client. Contains no secret and nothing that helps an attacker.
    pub detail: Cow<'static, str>,
    /// When to retry, if known.
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

    /// Whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        self.code.is_temporary() || self.retry_after.is_some()
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, code.title())
    }
}

/// The `error` frame of the native protocols.
#[derive(Debug, Serialize)]
pub struct ErrorFrame<'a> {
    /// The `id` of the refused command.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    code: String,
    message: &'a str,
    temporary: bool,
}

impl<'a> ErrorFrame<'a> {
    pub fn new(id: Option<&'a str>, refusal: &'a Refusal) -> Self {
        Self { id, code: refusal.code.name(), message: &refusal.detail, temporary: refusal.is_temporary() }
    }
}
