//! Messages made smaller (RFC 7692 section 7.2), each on its own: no context is taken over to the next one, so one
//! compressed frame serves many connections, and a connection keeps no state for either direction.

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::compressed_text_frame;
use crate::protocol::CloseReason;

/// Shorter texts gain nothing worth the work.
const WORTHWHILE_BYTES: usize = 128;

/// What a sender leaves away at the end of each message (section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The same and an empty last block: a stream that does not end with it was cut in the middle of a block.
const END: [u8; 9] = [0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff];

// Made once for each thread: the states are large, and resetting them costs little.
thread_local! {
    static DEFLATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::default(), false));
    static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// A frame that holds `text` compressed, if that makes it smaller.
pub fn deflated_text_frame(text: &[u8]) -> Option<Bytes> {
    if text.len() < WORTHWHILE_BYTES {
        return None;
    }
    let deflated = DEFLATE.with_borrow_mut(|state| deflate(state, text))?;
    Some(compressed_text_frame(&deflated))
}

/// `None` if the result would be no shorter.
fn deflate(state: &mut Compress, bytes: &[u8]) -> Option<Vec<u8>> {
    state.reset();
    let mut deflated = Vec::with_capacity(bytes.len());
    state.compress_vec(bytes, &mut deflated, FlushCompress::Sync).ok()?;
    // A flush is over only when it left room.
    let is_whole = state.total_in() == bytes.len() as u64 && deflated.len() < deflated.capacity();
    let shorter = deflated.strip_suffix(&TAIL).filter(|shorter| is_whole && shorter.len() < bytes.len())?.len();
    deflated.truncate(shorter);
    Some(deflated)
}

/// The message that was compressed. What would be longer than `max_bytes` is given up when it is, so no more than that
/// is ever held.
pub(super) fn inflate(deflated: &[u8], max_bytes: usize) -> Result<Vec<u8>, CloseReason> {
    INFLATE.with_borrow_mut(|state| {
        state.reset(false);
        let mut inflated = Vec::new();
        let rest = match feed(state, deflated, &mut inflated, max_bytes)? {
            // The sender may have ended the stream; then nothing follows but one empty block (section 7.2.3.4).
            Some([0]) => Some(&[][..]),
            Some(rest) => Some(rest),
            None => feed(state, &END, &mut inflated, max_bytes)?,
        };
        if rest.is_some_and(<[u8]>::is_empty) { Ok(inflated) } else { Err(CloseReason::ProtocolError) }
    })
}

/// Inflates all of `input`; gives what is left of it if the stream ends before.
fn feed<'a>(
    state: &mut Decompress,
    mut input: &'a [u8],
    inflated: &mut Vec<u8>,
    max_bytes: usize,
) -> Result<Option<&'a [u8]>, CloseReason> {
    loop {
        // Room for one byte too many tells a message that is too long from one that fits.
        if inflated.len() == inflated.capacity() {
            let wanted = (inflated.len() * 2).max(1024).min(max_bytes.saturating_add(1));
            inflated.reserve_exact(wanted - inflated.len());
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
        // Room that is left means that nothing more comes out.
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
    fn the_examples_of_the_standard_are_understood() {
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
    fn what_is_no_deflate_data_is_a_protocol_error() {
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
    fn t_ws2_no_more_than_the_limit_is_ever_held() {
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
    fn what_is_short_or_does_not_shrink_stays_as_it_is() {
        assert_eq!(deflated_text_frame(&[b'a'; WORTHWHILE_BYTES - 1]), None);
        assert!(deflated_text_frame(&[b'a'; WORTHWHILE_BYTES]).is_some());
        let mut noise = vec![0; 4096];
        getrandom::fill(&mut noise).unwrap();
        assert_eq!(deflated_text_frame(&noise), None);
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_out_again(text in "(.{0,9}){0,400}|[a-c]{0,3000}") {
            if let Some(frame) = deflated_text_frame(text.as_bytes()) {
                prop_assert!(payload(&frame).len() < text.len());
                prop_assert_eq!(inflate(payload(&frame), text.len()).unwrap(), text.as_bytes());
                prop_assert_eq!(inflate(payload(&frame), text.len() - 1), Err(CloseReason::MessageTooBig));
            }
        }

        #[test]
        fn any_bytes_inflate_or_do_not_within_the_limit(bytes in proptest::collection::vec(any::<u8>(), 0..300), max in 0usize..2000) {
            if let Ok(inflated) = inflate(&bytes, max) {
                prop_assert!(inflated.len() <= max);
            }
        }
    }
}
