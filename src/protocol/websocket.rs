//! WebSocket frames (RFC 6455 section 5), server side, without I/O.
//!
//! Headers are read and written by `tungstenite`; assembling messages from frames is ours, because an
//! idle connection then keeps no buffer at all, and because no library bounds the number of fragments.

mod deflate;
mod extension;
#[cfg(test)]
mod tests;

use std::io::Cursor;

use bytes::Bytes;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::CloseReason;
pub use deflate::deflated_text_frame;
pub use extension::{Malformed, accept_deflate};

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
    /// permessage-deflate was negotiated: messages may be compressed, each on its own.
    inflates: bool,
    partial: Option<Box<Partial>>,
}

#[derive(Default)]
struct Partial {
    /// A frame of which the end has not arrived.
    frame: Vec<u8>,
    /// The fragments so far of a message of which the end has not arrived, and what it is.
    message: Vec<u8>,
    kind: Option<Data>,
    is_compressed: bool,
    fragments: u32,
}

impl Assembler {
    /// `inflates` is whether permessage-deflate was negotiated.
    pub fn new(inflates: bool) -> Self {
        Self { inflates, partial: None }
    }

    /// Whether a few bytes can become a large message.
    pub fn inflates(&self) -> bool {
        self.inflates
    }

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
        let end = header.map_or(frame.len() + 1, |(_, _, end)| end);
        let (taken, rest) = input.split_at_mut((end - frame.len()).min(input.len()));
        // Room for twice what arrived, as a vector would make, but for no more than the frame.
        if frame.capacity() - frame.len() < taken.len() {
            let wanted = (frame.len() * 2).min(end).max(frame.len() + taken.len());
            frame.reserve_exact(wanted - frame.len());
        }
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
        // RFC 7692 section 6: the first frame of a message says whether it is compressed, no other frame does.
        let is_first = matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        let reserved = (header.rsv1 && !(self.inflates && is_first)) || header.rsv2 || header.rsv3;
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
            (None, kind) if header.is_final => return whole(kind, payload, header.rsv1, bounds, sink),
            (Some(begun), _) => begun,
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
            return whole(kind, &message, is_compressed, bounds, sink);
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

/// Hands over a message of which everything has arrived.
fn whole(
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

/// What a frame of the gateway's own holds.
pub fn payload(frame: &[u8]) -> &[u8] {
    let start = match frame.get(1) {
        Some(127) => 10,
        Some(126) => 4,
        _ => 2,
    };
    frame.get(start..).unwrap_or_default()
}

/// The same of text that is compressed.
fn compressed_text_frame(deflated: &[u8]) -> Bytes {
    frame_of(FrameHeader { rsv1: true, opcode: OpCode::Data(Data::Text), ..FrameHeader::default() }, deflated)
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
    frame_of(FrameHeader { opcode, ..FrameHeader::default() }, payload)
}

fn frame_of(header: FrameHeader, payload: &[u8]) -> Bytes {
    let length = payload.len() as u64;
    let mut frame = Vec::with_capacity(header.len(length) + payload.len());
    header.format(length, &mut frame).expect("writing to memory does not fail");
    frame.extend_from_slice(payload);
    frame.into()
}
