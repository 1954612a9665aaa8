//! WebSocket frames and messages (RFC 6455 section 5), server side, without I/O.
//!
//! `tungstenite` reads and writes headers. Messages are assembled here: an idle connection then needs no buffer, and no
//! library bounds the number of fragments.

mod deflate;
mod encode;
mod extension;
#[cfg(test)]
mod tests;
mod text;

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use self::encode::MAX_CONTROL_BYTES;
use self::text::TextCheck;
use super::CloseReason;
pub use deflate::deflated_text_frame;
pub use encode::{
    binary_frame, close_frame, close_frame_echo, close_frame_with, payload, ping_frame, pong_frame, text_frame,
    written_texts,
};
pub use extension::{Malformed, accept_deflate};

/// A complete message of the peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    /// The payload of the peer's Close, which the answering Close repeats.
    Close(&'a [u8]),
}

/// Limits of the messages of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Size of an assembled message, in bytes.
    pub message_bytes: usize,
    /// Number of fragments of a message.
    pub fragments: u32,
}

/// Assembles messages from a peer's bytes. Allocates only while a message is incomplete.
#[derive(Default)]
pub struct Assembler {
    /// Whether permessage-deflate was negotiated.
    inflates: bool,
    partial: Option<Box<Partial>>,
}

#[derive(Default)]
struct Partial {
    /// The incomplete frame.
    frame: Vec<u8>,
    /// Payload bytes of that frame which are unmasked, because they are text that was checked on arrival.
    checked: usize,
    text: TextCheck,
    /// Payload of the message's fragments received so far.
    message: Vec<u8>,
    kind: Option<Data>,
    is_compressed: bool,
    fragments: u32,
}

impl Assembler {
    /// `inflates`: permessage-deflate was negotiated.
    pub fn new(inflates: bool) -> Self {
        Self { inflates, partial: None }
    }

    /// Whether messages may be compressed, so that few bytes can become a large message.
    pub fn inflates(&self) -> bool {
        self.inflates
    }

    /// Consumes `input`, unmasks it in place, and passes each complete message to `sink`.
    ///
    /// Memory grows with received bytes, never with a length that a header announces. An error ends the connection.
    pub fn feed(
        &mut self,
        mut input: &mut [u8],
        bounds: Bounds,
        sink: &mut impl FnMut(Message<'_>) -> Result<(), CloseReason>,
    ) -> Result<(), CloseReason> {
        while !input.is_empty() {
            let buffered = self.partial.as_ref().map_or(0, |partial| partial.frame.len());
            if buffered > 0 {
                input = self.feed_buffered(input, bounds, sink)?;
                continue;
            }
            match self.read_header(input, bounds)? {
                Some((header, start, end)) if end <= input.len() => {
                    let (frame, rest) = input.split_at_mut(end);
                    self.on_frame(&header, &mut frame[start..], 0, bounds, sink)?;
                    input = rest;
                }
                header => {
                    let partial = self.partial.get_or_insert_default();
                    partial.frame.extend_from_slice(input);
                    return header.map_or(Ok(()), |(header, start, _)| partial.check_text(&header, start));
                }
            }
        }
        Ok(())
    }

    /// Appends `input` to the buffered frame, up to its end. Returns the rest of `input`.
    fn feed_buffered<'a>(
        &mut self,
        input: &'a mut [u8],
        bounds: Bounds,
        sink: &mut impl FnMut(Message<'_>) -> Result<(), CloseReason>,
    ) -> Result<&'a mut [u8], CloseReason> {
        let mut frame = std::mem::take(&mut self.partial.get_or_insert_default().frame);
        let header = self.read_header(&frame, bounds)?;
        // An incomplete header is read byte by byte: at most 14 bytes.
        let end = header.map_or(frame.len() + 1, |(_, _, end)| end);
        let (taken, rest) = input.split_at_mut((end - frame.len()).min(input.len()));
        // Doubles the capacity as a vector would, but never beyond the end of the frame.
        if frame.capacity() - frame.len() < taken.len() {
            let capacity = (frame.len() * 2).min(end).max(frame.len() + taken.len());
            frame.reserve_exact(capacity - frame.len());
        }
        frame.extend_from_slice(taken);
        match self.read_header(&frame, bounds)? {
            Some((header, start, end)) if end == frame.len() => {
                let checked = std::mem::take(&mut self.partial.get_or_insert_default().checked);
                self.on_frame(&header, &mut frame[start..], checked, bounds, sink)?;
                self.release();
            }
            header => {
                let partial = self.partial.get_or_insert_default();
                partial.frame = frame;
                if let Some((header, start, _)) = header {
                    partial.check_text(&header, start)?;
                }
            }
        }
        Ok(rest)
    }

    /// The header at the front of `bytes`, with start and end of its payload; `None` while it is incomplete.
    fn read_header(&self, bytes: &[u8], bounds: Bounds) -> Result<Option<(FrameHeader, usize, usize)>, CloseReason> {
        let mut cursor = Cursor::new(bytes);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| CloseReason::ProtocolError)?;
        let Some((header, length)) = parsed else {
            return Ok(None);
        };
        let start = cursor.position() as usize;
        // RFC 7692 section 6: the first frame of a message marks it as compressed, no other frame may.
        let is_first = matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        let reserved = (header.rsv1 && !(self.inflates && is_first)) || header.rsv2 || header.rsv3;
        // Section 5.2: a length has the shortest encoding. The mask is 4 bytes of the header.
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

    /// `checked` bytes of the payload are unmasked.
    fn on_frame(
        &mut self,
        header: &FrameHeader,
        payload: &mut [u8],
        checked: usize,
        bounds: Bounds,
        sink: &mut impl FnMut(Message<'_>) -> Result<(), CloseReason>,
    ) -> Result<(), CloseReason> {
        unmask(&mut payload[checked..], header.mask, checked);
        let kind = match header.opcode {
            OpCode::Control(Control::Ping) => return sink(Message::Ping(payload)),
            OpCode::Control(Control::Pong) => return sink(Message::Pong),
            OpCode::Control(_) => {
                check_close(payload)?;
                return sink(Message::Close(payload));
            }
            OpCode::Data(kind) => kind,
        };
        let first_kind = self.partial.as_ref().and_then(|partial| partial.kind);
        let kind = match (first_kind, kind) {
            (None, Data::Continue) | (Some(_), Data::Text | Data::Binary) => return Err(CloseReason::ProtocolError),
            (None, kind) if header.is_final => return emit(kind, payload, header.rsv1, bounds, sink),
            (Some(first_kind), _) => first_kind,
            (None, kind) => kind,
        };
        let partial = self.partial.get_or_insert_default();
        partial.kind = Some(kind);
        partial.is_compressed |= header.rsv1;
        partial.fragments += 1;
        partial.message.extend_from_slice(payload);
        if partial.fragments > bounds.fragments {
            return Err(CloseReason::MessageTooBig);
        }
        if header.is_final {
            let Partial { message, is_compressed, .. } = std::mem::take(&mut **partial);
            self.release();
            return emit(kind, &message, is_compressed, bounds, sink);
        }
        if kind == Data::Text && !partial.is_compressed { partial.text.push(&payload[checked..]) } else { Ok(()) }
    }

    /// Frees the buffers when no message is incomplete.
    fn release(&mut self) {
        if self.partial.as_ref().is_some_and(|partial| partial.frame.is_empty() && partial.kind.is_none()) {
            self.partial = None;
        }
    }
}

impl Partial {
    /// Checks the text of the incomplete frame as far as it has arrived: a message ends at its first wrong byte
    /// (section 8.1).
    fn check_text(&mut self, header: &FrameHeader, start: usize) -> Result<(), CloseReason> {
        let is_text = match header.opcode {
            OpCode::Data(Data::Text) => self.kind.is_none() && !header.rsv1,
            OpCode::Data(Data::Continue) => self.kind == Some(Data::Text) && !self.is_compressed,
            _ => false,
        };
        if !is_text {
            return Ok(());
        }
        let arrived = &mut self.frame[start + self.checked..];
        unmask(arrived, header.mask, self.checked);
        self.checked += arrived.len();
        self.text.push(arrived)
    }
}

/// Passes a complete message to `sink`, inflated if it is compressed.
fn emit(
    kind: Data,
    payload: &[u8],
    is_compressed: bool,
    bounds: Bounds,
    sink: &mut impl FnMut(Message<'_>) -> Result<(), CloseReason>,
) -> Result<(), CloseReason> {
    if is_compressed {
        return sink(message(kind, &deflate::inflate(payload, bounds.message_bytes)?)?);
    }
    sink(message(kind, payload)?)
}

fn message(kind: Data, payload: &[u8]) -> Result<Message<'_>, CloseReason> {
    match kind {
        Data::Text => std::str::from_utf8(payload).map(Message::Text).map_err(|_| CloseReason::InvalidUtf8),
        _ => Ok(Message::Binary(payload)),
    }
}

/// Section 7.4: a Close is empty, or has an allowed code and a reason in UTF-8.
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

/// Unmasks a part of a payload that begins at `offset`.
fn unmask(part: &mut [u8], mask: Option<[u8; 4]>, offset: usize) {
    let Some(mut mask) = mask else { return };
    mask.rotate_left(offset % 4);
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let mut chunks = part.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let masked = u64::from_ne_bytes(chunk.try_into().expect("chunks of eight"));
        chunk.copy_from_slice(&(masked ^ wide).to_ne_bytes());
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}
