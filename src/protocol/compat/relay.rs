//! The relay dialect: plain text frames, in which whole messages with a leading slash are the gateway's own words.
//!
//! Its clients cannot tell a peer's text from one of these words. What keeps the words the gateway's is that no text
//! of a peer ever changes a state here; a listener may go further and refuse texts that look like one.

use bytes::Bytes;

use crate::protocol::websocket::text_frame;

/// Longest id, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// What the gateway says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// You wait for a peer.
    Waiting,
    /// You have a peer.
    Connected,
    /// A peer came to you, who waited.
    Open,
    /// Your peer left.
    Close,
}

impl Word {
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

/// The answer to a text that went to nobody.
pub fn not_received(text: &str) -> Bytes {
    text_frame(format!("/error:0001:The message was not received by anyone.:{text}").as_bytes())
}

/// Whether a client could take a peer's text for a word of the gateway.
pub fn looks_like_a_word(text: &str) -> bool {
    ["/status:", "/remote:", "/error:"].iter().any(|prefix| text.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_gateway_looks_like_one() {
        for word in [Word::Waiting, Word::Connected, Word::Open, Word::Close] {
            assert!(looks_like_a_word(word.text()));
        }
        assert!(looks_like_a_word("/error:0001:x"));
        assert!(!looks_like_a_word("/remote"));
        assert!(!looks_like_a_word(" /remote:close"));
    }
}
