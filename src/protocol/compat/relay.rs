//! The relay protocol: plain text frames. Control messages of the gateway begin with a slash.
//!
//! Its clients cannot distinguish a peer's text from a control message. No text of a peer changes state in the gateway;
//! a listener may also refuse texts that look like control messages.

use bytes::Bytes;

use crate::protocol::websocket::text_frame;

/// Longest id, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// A message of the gateway itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    /// The client waits for a peer.
    Waiting,
    /// The client joined a waiting peer.
    Connected,
    /// A peer joined the waiting client.
    Open,
    /// The peer left.
    Close,
}

impl ControlMessage {
    pub fn text(self) -> &'static str {
        match self {
            Self::Waiting => "/status:waiting",
            Self::Connected => "/status:connected",
            Self::Open => "/remote:open",
            Self::Close => "/remote:close",
        }
    }

    pub fn frame(self) -> Bytes {
        text_frame(self.text().as_bytes())
    }
}

/// The answer to a text without a receiving peer.
pub fn not_received(text: &str) -> Bytes {
    text_frame(format!("/error:0001:The message was not received by anyone.:{text}").as_bytes())
}

/// Whether clients could mistake a peer's text for a control message.
pub fn looks_like_control(text: &str) -> bool {
    ["/status:", "/remote:", "/error:"].iter().any(|prefix| text.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_control_messages() {
        for message in [ControlMessage::Waiting, ControlMessage::Connected, ControlMessage::Open, ControlMessage::Close]
        {
            assert!(looks_like_control(message.text()));
        }
        assert!(looks_like_control("/error:0001:x"));
        assert!(!looks_like_control("/remote"));
        assert!(!looks_like_control(" /remote:close"));
    }
}
