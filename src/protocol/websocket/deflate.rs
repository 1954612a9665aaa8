//! Compression of single messages (RFC 7692 section 7.2), without context takeover.
//!
//! So one compressed frame serves many connections, and a connection needs no state for either direction.

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::encode::compressed_text_frame;
use crate::protocol::CloseReason;

/// Shortest text that is compressed: compression gains little for shorter ones.
const MIN_DEFLATE_BYTES: usize = 128;

/// The end of each message, which senders omit (section 7.2.1).
const OMITTED_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The omitted end and an empty last block. A stream that this does not end was cut in the middle of a block.
const STREAM_END: [u8; 9] = [0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff];

// One state per thread: states are large, and a reset is cheap.
thread_local! {
    static DEFLATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::default(), false));
    static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// A frame with `text` compressed; `None` if that is not smaller.
pub fn deflated_text_frame(text: &[u8]) -> Option<Bytes> {
    if text.len() < MIN_DEFLATE_BYTES {
        return None;
    }
    let deflated = DEFLATE.with_borrow_mut(|state| deflate(state, text))?;
    Some(compressed_text_frame(&deflated))
}

/// `None` if the result would not be shorter.
fn deflate(state: &mut Compress, bytes: &[u8]) -> Option<Vec<u8>> {
    state.reset();
    let mut deflated = Vec::with_capacity(bytes.len());
    state.compress_vec(bytes, &mut deflated, FlushCompress::Sync).ok()?;
    // A flush is complete only if it left free capacity.
    let is_whole = state.total_in() == bytes.len() as u64 && deflated.len() < deflated.capacity();
    let shorter = deflated.strip_suffix(&OMITTED_TAIL).filter(|shorter| is_whole && shorter.len() < bytes.len())?.len();
    deflated.truncate(shorter);
    Some(deflated)
}

/// Inflates a message. Stops with an error after `max_bytes`, so memory is bounded by that.
pub(super) fn inflate(deflated: &[u8], max_bytes: usize) -> Result<Vec<u8>, CloseReason> {
    INFLATE.with_borrow_mut(|state| {
        state.reset(false);
        let mut inflated = Vec::new();
        let rest = match feed(state, deflated, &mut inflated, max_bytes)? {
            // A sender may end the stream; then only one empty block follows (section 7.2.3.4).
            Some([0]) => Some(&[][..]),
            Some(rest) => Some(rest),
            None => feed(state, &STREAM_END, &mut inflated, max_bytes)?,
        };
        if rest.is_some_and(<[u8]>::is_empty) { Ok(inflated) } else { Err(CloseReason::ProtocolError) }
    })
}

/// Inflates `input`. Returns the rest of it if the stream ends earlier.
fn feed<'a>(
    state: &mut Decompress,
    mut input: &'a [u8],
    inflated: &mut Vec<u8>,
    max_bytes: usize,
) -> Result<Option<&'a [u8]>, CloseReason> {
    loop {
        // Capacity for one extra byte distinguishes a message that is too long from one that fits.
        if inflated.len() == inflated.capacity() {
            let capacity = (inflated.len() * 2).max(1024).min(max_bytes.saturating_add(1));
            inflated.reserve_exact(capacity - inflated.len());
        }
        let before = (state.total_in(), inflated.len());
        let status = state.decompress_vec(input, inflated, FlushDecompress::Sync);
        let status = status.map_err(|_| CloseReason::ProtocolError)?;
        input = &input[(state.total_in() - before.0) as usize..];
        if inflated.len() > max_bytes {
            return Err(CloseReason::MessageTooBig);
        }
        if status == Status::StreamEnd {
            return Ok(Some(input));
        }
        // Free capacity means that there is no more output.
        if input.is_empty() && inflated.len() < inflated.capacity() {
            return Ok(None);
        }
        if before == (state.total_in(), inflated.len()) && inflated.len() < inflated.capacity() {
            return Err(CloseReason::ProtocolError);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    /// The payload of a compressed frame.
    fn payload(frame: &Bytes) -> &[u8] {
        assert_eq!(frame[0], 0xc1, "a whole compressed text");
        let header = match frame[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        &frame[header..]
    }

    #[test]
    fn inflates_rfc_examples() {
        // RFC 7692 section 7.2.3: one block, no compression, an ended stream, two blocks.
        let examples: [&[u8]; 4] = [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ];
        for example in examples {
            assert_eq!(inflate(example, 5).as_deref(), Ok(&b"Hello"[..]));
            assert_eq!(inflate(example, 4), Err(CloseReason::MessageTooBig));
        }
        assert_eq!(inflate(&[0x00], 0), Ok(Vec::new()), "section 7.2.3.6: an empty message");
    }

    #[test]
    fn bad_data_is_a_protocol_error() {
        let after_the_end = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0xf2, 0x48];
        for bad in [
            &[0xff; 8][..],
            &[0x07],
            &after_the_end,
            &[],
            b"{\"type\"",
            &[0xf2, 0x48],
            &[0x00, 0x05, 0x00, 0x00, 0x00, 0x48],
        ] {
            assert_eq!(inflate(bad, 1000), Err(CloseReason::ProtocolError), "{bad:x?}");
        }
    }

    #[test]
    fn inflated_size_is_bounded() {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![b'a'; 1 << 24]).unwrap();
        let bomb = encoder.finish().unwrap();
        assert_eq!(inflate(&bomb, 65536), Err(CloseReason::MessageTooBig));
        INFLATE.with_borrow_mut(|state| {
            state.reset(false);
            let mut inflated = Vec::new();
            assert!(feed(state, &bomb, &mut inflated, 65536).is_err());
            assert!(inflated.capacity() <= 65537, "{}", inflated.capacity());
        });
    }

    #[test]
    fn skips_short_or_random_text() {
        assert_eq!(deflated_text_frame(&[b'a'; MIN_DEFLATE_BYTES - 1]), None);
        assert!(deflated_text_frame(&[b'a'; MIN_DEFLATE_BYTES]).is_some());
        let mut noise = vec![0; 4096];
        getrandom::fill(&mut noise).unwrap();
        assert_eq!(deflated_text_frame(&noise), None);
    }

    proptest! {
        #[test]
        fn round_trip(text in "(.{0,9}){0,400}|[a-c]{0,3000}") {
            if let Some(frame) = deflated_text_frame(text.as_bytes()) {
                prop_assert!(payload(&frame).len() < text.len());
                prop_assert_eq!(inflate(payload(&frame), text.len()).unwrap(), text.as_bytes());
                prop_assert_eq!(inflate(payload(&frame), text.len() - 1), Err(CloseReason::MessageTooBig));
            }
        }

        #[test]
        fn inflates_any_bytes_within_limit(bytes in proptest::collection::vec(any::<u8>(), 0..300), max in 0usize..2000) {
            if let Ok(inflated) = inflate(&bytes, max) {
                prop_assert!(inflated.len() <= max);
            }
        }
    }
}
