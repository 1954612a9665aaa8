//! Close reasons of WebSocket connections and subscriptions: one table.

use super::error_code::ErrorCode;

enum_table! {
    /// Why the gateway ends a connection. The peer receives the code and the name; details stay in the log.
    ///
    /// Clients reconnect after 4000 to 4499 and give up after 4500 to 4999. Reasons that RFC 6455 section 7.4.1
    /// defines have its code.
    pub enum CloseReason: (u16, &'static str) {
        /// The peer closed first; its Close is answered.
        Normal => (1000, ""),
        ProtocolError => (1002, "protocol_error"),
        UnsupportedData => (1003, "unsupported_data"),
        InvalidUtf8 => (1007, "invalid_utf8"),
        MessageTooBig => (1009, "message_too_big"),
        Draining => (4000, "draining"),
        SlowConsumer => (4001, "slow_consumer"),
        PingTimeout => (4002, "ping_timeout"),
        TokenExpired => (4003, "token_expired"),
        RateLimited => (4004, "rate_limited"),
        EngineUnavailable => (4005, "engine_unavailable"),
        IssuerUnavailable => (4006, "issuer_unavailable"),
        Malformed => (4500, "malformed"),
        Unauthenticated => (4501, "unauthenticated"),
        Forbidden => (4502, "forbidden"),
        Revoked => (4503, "revoked"),
        ChannelClosed => (4504, "channel_closed"),
        LifespanExpired => (4505, "lifespan_expired"),
        MessageLimit => (4506, "message_limit"),
        DataLimit => (4507, "data_limit"),
        ConnectionLimit => (4508, "connection_limit"),
        PeerLeft => (4509, "peer_left"),
        UnsupportedProtocol => (4510, "unsupported_protocol"),
        UnknownRoom => (4511, "unknown_room"),
    }
}

impl From<ErrorCode> for CloseReason {
    /// The close of a connection whose first message is refused. Temporary refusals allow a reconnect, all others do
    /// not.
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Unauthenticated => Self::Unauthenticated,
            ErrorCode::IssuerUnavailable => Self::IssuerUnavailable,
            ErrorCode::Draining => Self::Draining,
            ErrorCode::RateLimited | ErrorCode::LimitReached | ErrorCode::ConnectionLimit => Self::RateLimited,
            ErrorCode::Forbidden | ErrorCode::OriginForbidden | ErrorCode::ChannelForbidden => Self::Forbidden,
            code if code.is_temporary() => Self::EngineUnavailable,
            _ => Self::Malformed,
        }
    }
}

impl CloseReason {
    /// The status code of the Close frame.
    pub fn code(self) -> u16 {
        self.row().0
    }

    /// The reason with this status code.
    pub fn of(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The reason text of the Close frame.
    pub fn name(self) -> &'static str {
        self.row().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_is_final_if_refusal_is() {
        // A limit is reached for good, or until others leave: its close leaves the attempt to the client.
        for code in ErrorCode::ALL.into_iter().filter(|code| *code != ErrorCode::LimitReached) {
            let is_final = CloseReason::from(code).code() >= 4500;
            assert_eq!(is_final, !code.is_temporary(), "{code:?}");
        }
    }
}
