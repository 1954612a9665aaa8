//! WebSocket frames (RFC 6455 section 5), server side, without I/O.
//!
//! Headers are read and written by `tungstenite`; assembling messages from frames is ours, because an
//! idle connection then keeps no buffer at all, and because no library bounds the number of fragments.

use std::io::Cursor;

use bytes::Bytes;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::CloseReason;

/// Longest payload of a control frame (RFC 6455 section 5.5).
const MAX_CONTROL_BYTES: usize = 125;

/// A whole message of the peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    /// The peer ends the connection; the payload is what the Close in answer carries.
    Close(&'a [u8]),
}

/// What one connection may send.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a message, reassembled.
    pub message_bytes: usize,
    /// Fragments of a message.
    pub fragments: u32,
}

/// Turns the bytes of a peer into messages. Holds memory only while a message is incomplete.
#[derive(Default)]
pub struct Assembler {
    partial: Option<Box<Partial>>,
}

#[derive(Default)]
struct Partial {
    /// A frame of which the end has not arrived.
    frame: Vec<u8>,
    /// The fragments so far of a message of which the end has not arrived, and what it is.
    message: Vec<u8>,
    kind: Option<Data>,
    fragments: u32,
}

impl Assembler {
    /// Takes all of `input`, which is unmasked in place, and hands every complete message to `sink`.
    ///
    /// Memory grows with what was received, never with what a header announces. An error ends the connection.
    pub fn feed(
        &mut self,
        mut input: &mut [u8],
        bounds: Bounds,
        sink: &mut impl FnMut(Message<'_>) -> Result<(), CloseReason>,
    ) -> Result<(), CloseReason> {
        while !input.is_empty() {
            let held = self.partial.as_ref().map_or(0, |partial| partial.frame.len());
            if held > 0 {
                input = self.feed_held(input, bounds, sink)?;
                continue;
            }
            match self.read_header(input, bounds)? {
                Some((header, start, end)) if end <= input.len() => {
                    let (frame, rest) = input.split_at_mut(end);
                    self.on_frame(&header, &mut frame[start..], bounds, sink)?;
                    input = rest;
                }
                _ => {
                    self.partial.get_or_insert_default().frame.extend_from_slice(input);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Completes the frame that began in an earlier read, as far as `input` reaches; returns what is left of it.
    fn feed_held<'a>(
        &mut self,
        input: &'a mut [u8],
        bounds: Bounds,
        sink: &mut impl FnMut(Message<'_>) -> Result<(), CloseReason>,
    ) -> Result<&'a mut [u8], CloseReason> {
        let mut frame = std::mem::take(&mut self.partial.get_or_insert_default().frame);
        let header = self.read_header(&frame, bounds)?;
        // Until the header is whole, it is taken byte by byte: at most 14 of them.
        let missing = header.as_ref().map_or(1, |(_, _, end)| end - frame.len());
        let (taken, rest) = input.split_at_mut(missing.min(input.len()));
        frame.extend_from_slice(taken);
        match self.read_header(&frame, bounds)? {
            Some((header, start, end)) if end == frame.len() => {
                self.on_frame(&header, &mut frame[start..], bounds, sink)?;
                self.release();
            }
            _ => self.partial.get_or_insert_default().frame = frame,
        }
        Ok(rest)
    }

    /// The header at the front of `bytes`, with where its payload starts and ends; `None` while it is incomplete.
    fn read_header(&self, bytes: &[u8], bounds: Bounds) -> Result<Option<(FrameHeader, usize, usize)>, CloseReason> {
        let mut cursor = Cursor::new(bytes);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| CloseReason::ProtocolError)?;
        let Some((header, length)) = parsed else {
            return Ok(None);
        };
        let start = cursor.position() as usize;
        let reserved = header.rsv1 || header.rsv2 || header.rsv3;
        // Section 5.2: a length is written in the fewest bytes. The mask makes 4 of the header's bytes.
        let minimal = match start.saturating_sub(6) {
            0 => true,
            2 => length > 125,
            _ => length > u64::from(u16::MAX) && length >> 63 == 0,
        };
        if header.mask.is_none() || reserved || !minimal {
            return Err(CloseReason::ProtocolError);
        }
        match header.opcode {
            OpCode::Control(_) if !header.is_final || length > MAX_CONTROL_BYTES as u64 => {
                return Err(CloseReason::ProtocolError);
            }
            OpCode::Control(_) => {}
            OpCode::Data(_) => {
                let before = self.partial.as_ref().map_or(0, |partial| partial.message.len());
                if length.saturating_add(before as u64) > bounds.message_bytes as u64 {
                    return Err(CloseReason::MessageTooBig);
                }
            }
        }
        Ok(Some((header, start, start + length as usize)))
    }

    fn on_frame(
        &mut self,
        header: &FrameHeader,
        payload: &mut [u8],
        bounds: Bounds,
        sink: &mut impl FnMut(Message<'_>) -> Result<(), CloseReason>,
    ) -> Result<(), CloseReason> {
        unmask(payload, header.mask);
        let kind = match header.opcode {
            OpCode::Control(Control::Ping) => return sink(Message::Ping(payload)),
            OpCode::Control(Control::Pong) => return sink(Message::Pong),
            OpCode::Control(_) => {
                check_close(payload)?;
                return sink(Message::Close(payload));
            }
            OpCode::Data(kind) => kind,
        };
        let begun = self.partial.as_ref().and_then(|partial| partial.kind);
        let kind = match (begun, kind) {
            (None, Data::Continue) | (Some(_), Data::Text | Data::Binary) => return Err(CloseReason::ProtocolError),
            (None, kind) if header.is_final => return sink(message(kind, payload)?),
            (Some(begun), _) => begun,
            (None, kind) => kind,
        };
        let partial = self.partial.get_or_insert_default();
        partial.kind = Some(kind);
        partial.fragments += 1;
        partial.message.extend_from_slice(payload);
        if partial.fragments > bounds.fragments {
            return Err(CloseReason::MessageTooBig);
        }
        if header.is_final {
            let whole = std::mem::take(&mut partial.message);
            (partial.kind, partial.fragments) = (None, 0);
            self.release();
            return sink(message(kind, &whole)?);
        }
        Ok(())
    }

    /// Gives the memory back when nothing is incomplete.
    fn release(&mut self) {
        if self.partial.as_ref().is_some_and(|partial| partial.frame.is_empty() && partial.kind.is_none()) {
            self.partial = None;
        }
    }
}

fn message(kind: Data, payload: &[u8]) -> Result<Message<'_>, CloseReason> {
    match kind {
        Data::Text => std::str::from_utf8(payload).map(Message::Text).map_err(|_| CloseReason::InvalidUtf8),
        _ => Ok(Message::Binary(payload)),
    }
}

/// Section 7.4: a Close carries nothing, or an allowed code and a reason in UTF-8.
fn check_close(payload: &[u8]) -> Result<(), CloseReason> {
    match payload {
        [] => Ok(()),
        [_] => Err(CloseReason::ProtocolError),
        [high, low, reason @ ..] => {
            if !CloseCode::from(u16::from_be_bytes([*high, *low])).is_allowed() {
                return Err(CloseReason::ProtocolError);
            }
            std::str::from_utf8(reason).map(|_| ()).map_err(|_| CloseReason::InvalidUtf8)
        }
    }
}

fn unmask(payload: &mut [u8], mask: Option<[u8; 4]>) {
    let Some(mask) = mask else { return };
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let masked = u64::from_ne_bytes(chunk.try_into().expect("chunks of eight"));
        chunk.copy_from_slice(&(masked ^ wide).to_ne_bytes());
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// An unmasked frame that holds a whole text message.
pub fn text_frame(text: &[u8]) -> Bytes {
    frame(OpCode::Data(Data::Text), text)
}

/// An unmasked frame that holds a whole binary message.
pub fn binary_frame(bytes: &[u8]) -> Bytes {
    frame(OpCode::Data(Data::Binary), bytes)
}

/// What stands in frames that the gateway wrote itself: the texts, for a transport that is no WebSocket. Pings come as
/// empty texts; other control frames are left out.
pub fn written_texts(mut frames: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        loop {
            let mut cursor = Cursor::new(&frames[..]);
            let (header, length) = FrameHeader::parse(&mut cursor).ok()??;
            let (start, length) = (cursor.position() as usize, length as usize);
            let frame = frames.split_to(frames.len().min(start + length));
            match header.opcode {
                OpCode::Data(_) | OpCode::Control(Control::Ping) => return Some(frame.slice(start..)),
                OpCode::Control(_) => {}
            }
        }
    })
}

/// A pong that answers `payload`.
pub fn pong_frame(payload: &[u8]) -> Bytes {
    frame(OpCode::Control(Control::Pong), payload)
}

/// An empty ping.
pub fn ping_frame() -> Bytes {
    const PING: &[u8] = &[0x89, 0x00];
    Bytes::from_static(PING)
}

/// The Close frame of a reason.
pub fn close_frame(reason: CloseReason) -> Bytes {
    close_frame_saying(reason.code(), reason.name())
}

/// A Close frame in other words; as much of `text` as fits into a control frame.
pub fn close_frame_saying(code: u16, text: &str) -> Bytes {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&text.as_bytes()[..text.floor_char_boundary(MAX_CONTROL_BYTES - 2)]);
    close_frame_echo(&payload)
}

/// The Close frame that answers a Close with `payload`.
pub fn close_frame_echo(payload: &[u8]) -> Bytes {
    frame(OpCode::Control(Control::Close), &payload[..payload.len().min(MAX_CONTROL_BYTES)])
}

fn frame(opcode: OpCode, payload: &[u8]) -> Bytes {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let length = payload.len() as u64;
    let mut frame = Vec::with_capacity(header.len(length) + payload.len());
    header.format(length, &mut frame).expect("writing to memory does not fail");
    frame.extend_from_slice(payload);
    frame.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { message_bytes: 65536, fragments: 16 };

    /// A masked frame with any first byte and a length written as in `form` (7, 16 or 64 bits).
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x11, 0x22, 0x33, 0x44];
        let mut frame = vec![first];
        match payload.len() {
            n @ 0..=125 => frame.push(0x80 | n as u8),
            n @ 126..=65535 => {
                frame.push(0x80 | 126);
                frame.extend((n as u16).to_be_bytes());
            }
            n => {
                frame.push(0x80 | 127);
                frame.extend((n as u64).to_be_bytes());
            }
        }
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// Feeds `bytes` in pieces of `step` and writes down what came out.
    fn run(bytes: &[u8], step: usize) -> (Vec<String>, Result<(), CloseReason>) {
        let mut assembler = Assembler::default();
        let mut seen = Vec::new();
        for piece in bytes.chunks(step.max(1)) {
            let result = assembler.feed(&mut piece.to_vec(), BOUNDS, &mut |message| {
                seen.push(format!("{message:?}"));
                Ok(())
            });
            if result.is_err() {
                return (seen, result);
            }
        }
        (seen, Ok(()))
    }

    fn check(bytes: &[u8], expected: &[&str], result: Result<(), CloseReason>) {
        for step in [1, 2, 3, 7, usize::MAX] {
            let (seen, ended) = run(bytes, step);
            assert_eq!(seen, expected, "in steps of {step}");
            assert_eq!(ended, result, "in steps of {step}");
        }
    }

    #[test]
    fn messages_come_out_whole_however_their_bytes_arrive() {
        check(&masked(0x81, b"hello"), &[r#"Text("hello")"#], Ok(()));
        check(&masked(0x82, &[1, 2]), &["Binary([1, 2])"], Ok(()));
        check(&masked(0x89, b"p"), &["Ping([112])"], Ok(()));
        check(&masked(0x8a, b""), &["Pong"], Ok(()));
        check(&masked(0x88, &[0x03, 0xe8]), &["Close([3, 232])"], Ok(()));
        let fragments = [masked(0x01, b"he"), masked(0x89, b""), masked(0x00, b"l"), masked(0x80, b"lo")].concat();
        check(&fragments, &["Ping([])", r#"Text("hello")"#], Ok(()));
        let two = [masked(0x81, b"a"), masked(0x81, &[b'b'; 200])].concat();
        check(&two, &[r#"Text("a")"#, &format!("Text({:?})", "b".repeat(200))], Ok(()));
    }

    #[test]
    fn t_ws11_an_unmasked_frame_is_a_protocol_error() {
        check(&[0x81, 0x01, b'a'], &[], Err(CloseReason::ProtocolError));
    }

    #[test]
    fn w4_what_the_standard_forbids_is_a_protocol_error() {
        let forbidden: [&[u8]; 12] = [
            &masked(0xc1, b"a"),                                // reserved bit
            &masked(0x83, b"a"),                                // reserved opcode
            &masked(0x8b, b"a"),                                // reserved control opcode
            &masked(0x09, b"a"),                                // fragmented control frame
            &masked(0x89, &[0; 126]),                           // long control frame
            &masked(0x80, b"a"),                                // continuation of nothing
            &[masked(0x01, b"a"), masked(0x81, b"b")].concat(), // a message inside a message
            &masked(0x88, &[3]),                                // half a close code
            &masked(0x88, &[0x03, 0xed]),                       // 1005 must not be sent
            &masked(0x88, &[0x00, 0x01]),                       // no such code
            &[0x81, 0x80 | 126, 0, 1, 0, 0, 0, 0, b'a'],        // a length that is not minimal
            &[0x81, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, b'a'],
        ];
        for bytes in forbidden {
            check(bytes, &[], Err(CloseReason::ProtocolError));
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_told_so() {
        check(&masked(0x81, &[0xff]), &[], Err(CloseReason::InvalidUtf8));
        check(&[masked(0x01, &[0xc3]), masked(0x80, &[0x28])].concat(), &[], Err(CloseReason::InvalidUtf8));
        check(&masked(0x88, &[0x03, 0xe8, 0xff]), &[], Err(CloseReason::InvalidUtf8));
        check(&[masked(0x01, &[0xc3]), masked(0x80, &[0xa9])].concat(), &[r#"Text("é")"#], Ok(()));
    }

    #[test]
    fn t_ws1_a_huge_announced_length_is_refused_by_its_header() {
        for length in [65537, u64::MAX >> 1] {
            for opcode in [0x81, 0x82, 0x01, 0x02] {
                let mut frame = vec![opcode, 0x80 | 127];
                frame.extend(length.to_be_bytes());
                frame.extend([0; 4]);
                check(&frame, &[], Err(CloseReason::MessageTooBig));
            }
        }
        for length in [1 << 63, u64::MAX] {
            let mut frame = vec![0x82, 0x80 | 127];
            frame.extend(u64::to_be_bytes(length));
            frame.extend([0; 4]);
            check(&frame, &[], Err(CloseReason::ProtocolError));
        }
    }

    #[test]
    fn t_ws3_fragments_are_bounded_in_number_and_in_sum() {
        let mut flood = masked(0x01, b"");
        for _ in 0..16 {
            flood.extend(masked(0x00, b""));
        }
        check(&flood, &[], Err(CloseReason::MessageTooBig));
        let big = [masked(0x01, &[b'a'; 40000]), masked(0x80, &[b'a'; 40000])].concat();
        let (seen, result) = run(&big, usize::MAX);
        assert!(seen.is_empty());
        assert_eq!(result, Err(CloseReason::MessageTooBig));
    }

    #[test]
    fn t_ws8_memory_follows_what_was_received() {
        let mut assembler = Assembler::default();
        let mut head = vec![0x82, 0x80 | 126, 0xff, 0xff, 0, 0, 0, 0, 1, 2, 3];
        assembler.feed(&mut head, BOUNDS, &mut |_| Ok(())).unwrap();
        assert!(assembler.partial.as_ref().unwrap().frame.capacity() < 64);
    }

    #[test]
    fn nothing_is_held_between_messages() {
        let mut assembler = Assembler::default();
        let bytes = [masked(0x01, b"he"), masked(0x80, b"llo"), masked(0x81, b"again")].concat();
        for piece in bytes.chunks(2) {
            assembler.feed(&mut piece.to_vec(), BOUNDS, &mut |_| Ok(())).unwrap();
        }
        assert!(assembler.partial.is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_end_the_same_way(bytes in proptest::collection::vec(any::<u8>(), 0..400), step in 1usize..40) {
            prop_assert_eq!(run(&bytes, step), run(&bytes, usize::MAX));
        }

        #[test]
        fn what_a_whole_library_writes_is_read(payloads in proptest::collection::vec(".{0,300}", 1..8), step in 1usize..600) {
            use tungstenite::protocol::frame::Frame;
            let mut bytes = Vec::new();
            for payload in &payloads {
                let mut frame = Frame::message(payload.clone(), OpCode::Data(Data::Text), true);
                frame.header_mut().mask = Some([1, 2, 3, 4]);
                frame.format(&mut bytes).unwrap();
            }
            let expected: Vec<String> = payloads.iter().map(|text| format!("Text({text:?})")).collect();
            prop_assert_eq!(run(&bytes, step), (expected, Ok(())));
        }
    }
}
