//! Checks text while it arrives (RFC 3629), also where a character is split.

use crate::protocol::CloseReason;

/// The state between two parts of a text.
#[derive(Default)]
pub struct TextCheck {
    /// The start of a character whose rest has not arrived.
    open: [u8; 4],
    length: usize,
}

impl TextCheck {
    /// Checks the next part.
    pub fn push(&mut self, mut part: &[u8]) -> Result<(), CloseReason> {
        while self.length > 0
            && let Some((byte, rest)) = part.split_first()
        {
            self.open[self.length] = *byte;
            self.length = open_bytes(&self.open[..=self.length])?;
            part = rest;
        }
        let open = open_bytes(part)?;
        if open > 0 {
            self.open[..open].copy_from_slice(&part[part.len() - open..]);
            self.length = open;
        }
        Ok(())
    }
}

/// Bytes of an incomplete character at the end: at most three.
fn open_bytes(part: &[u8]) -> Result<usize, CloseReason> {
    match std::str::from_utf8(part) {
        Ok(_) => Ok(0),
        Err(error) if error.error_len().is_some() => Err(CloseReason::InvalidUtf8),
        Err(error) => Ok(part.len() - error.valid_up_to()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The verdict is that of the standard library, and comes with the first wrong byte.
        #[test]
        fn split_text_is_checked_at_once(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0xe0..=0xf5_u8, 0x80..=0xbf_u8], 0..12),
            text in ".{0,8}",
            at: prop::sample::Index,
        ) {
            for bytes in [bytes, text.into_bytes()] {
                let at = at.index(bytes.len() + 1);
                let (first, second) = bytes.split_at(at);
                let mut check = TextCheck::default();
                let verdict = check.push(first).and_then(|()| check.push(second));
                let expected = std::str::from_utf8(&bytes);
                prop_assert_eq!(verdict.is_err(), expected.is_err_and(|error| error.error_len().is_some()));
            }
        }
    }
}
