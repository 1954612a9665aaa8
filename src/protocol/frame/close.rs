//! The one table of how connections end.

/// Why the gateway ends a connection. The peer is told the number and the name, never a cause.
///
/// 4000 to 4499 tell a client to connect again, 4500 to 4999 not to. Where RFC 6455 section 7.4.1 has a
/// code of its own, that one is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The peer closed first; its close is answered.
    Normal,
    ProtocolError,
    UnsupportedData,
    InvalidUtf8,
    MessageTooBig,
    Draining,
    SlowConsumer,
    PingTimeout,
    TokenExpired,
    RateLimited,
    EngineUnavailable,
    Malformed,
    Unauthenticated,
    Forbidden,
    Revoked,
    ChannelClosed,
    LifespanExpired,
    MessageLimit,
    DataLimit,
    ConnectionLimit,
    PeerLeft,
    UnsupportedProtocol,
    UnknownRoom,
}

impl CloseReason {
    /// Every reason, for tables and metrics.
    pub const ALL: [Self; 23] = [
        Self::Normal,
        Self::ProtocolError,
        Self::UnsupportedData,
        Self::InvalidUtf8,
        Self::MessageTooBig,
        Self::Draining,
        Self::SlowConsumer,
        Self::PingTimeout,
        Self::TokenExpired,
        Self::RateLimited,
        Self::EngineUnavailable,
        Self::Malformed,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::Revoked,
        Self::ChannelClosed,
        Self::LifespanExpired,
        Self::MessageLimit,
        Self::DataLimit,
        Self::ConnectionLimit,
        Self::PeerLeft,
        Self::UnsupportedProtocol,
        Self::UnknownRoom,
    ];

    /// The status code of the Close frame.
    pub fn code(self) -> u16 {
        self.entry().0
    }

    /// The reason with this status code.
    pub fn of(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The reason text of the Close frame.
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    fn entry(self) -> (u16, &'static str) {
        match self {
            Self::Normal => (1000, ""),
            Self::ProtocolError => (1002, "protocol_error"),
            Self::UnsupportedData => (1003, "unsupported_data"),
            Self::InvalidUtf8 => (1007, "invalid_utf8"),
            Self::MessageTooBig => (1009, "message_too_big"),
            Self::Draining => (4000, "draining"),
            Self::SlowConsumer => (4001, "slow_consumer"),
            Self::PingTimeout => (4002, "ping_timeout"),
            Self::TokenExpired => (4003, "token_expired"),
            Self::RateLimited => (4004, "rate_limited"),
            Self::EngineUnavailable => (4005, "engine_unavailable"),
            Self::Malformed => (4500, "malformed"),
            Self::Unauthenticated => (4501, "unauthenticated"),
            Self::Forbidden => (4502, "forbidden"),
            Self::Revoked => (4503, "revoked"),
            Self::ChannelClosed => (4504, "channel_closed"),
            Self::LifespanExpired => (4505, "lifespan_expired"),
            Self::MessageLimit => (4506, "message_limit"),
            Self::DataLimit => (4507, "data_limit"),
            Self::ConnectionLimit => (4508, "connection_limit"),
            Self::PeerLeft => (4509, "peer_left"),
            Self::UnsupportedProtocol => (4510, "unsupported_protocol"),
            Self::UnknownRoom => (4511, "unknown_room"),
        }
    }
}
