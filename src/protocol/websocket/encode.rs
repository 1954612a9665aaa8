//! Encodes the frames that the gateway writes, and reads them back for event streams and polls (RFC 6455 section 5).

use std::io::Cursor;

use bytes::Bytes;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::protocol::CloseReason;

/// Longest payload of a control frame (RFC 6455 section 5.5).
pub const MAX_CONTROL_BYTES: usize = 125;

/// An unmasked frame with a text message.
pub fn text_frame(text: &[u8]) -> Bytes {
    frame(OpCode::Data(Data::Text), text)
}

/// The payload of a frame that the gateway wrote.
pub fn payload(frame: &[u8]) -> &[u8] {
    let start = match frame.get(1) {
        Some(127) => 10,
        Some(126) => 4,
        _ => 2,
    };
    frame.get(start..).unwrap_or_default()
}

/// An unmasked frame with a compressed text message.
pub fn compressed_text_frame(deflated: &[u8]) -> Bytes {
    frame_of(FrameHeader { rsv1: true, opcode: OpCode::Data(Data::Text), ..FrameHeader::default() }, deflated)
}

/// An unmasked frame with a binary message.
pub fn binary_frame(bytes: &[u8]) -> Bytes {
    frame(OpCode::Data(Data::Binary), bytes)
}

/// The texts in frames that the gateway wrote, for event streams and polls. Pings become empty texts; other control
/// frames are skipped.
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
    close_frame_with(reason.code(), reason.name())
}

/// A Close frame with another code and reason. `text` is cut to fit into a control frame.
pub fn close_frame_with(code: u16, text: &str) -> Bytes {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&text.as_bytes()[..text.floor_char_boundary(MAX_CONTROL_BYTES - 2)]);
    close_frame_echo(&payload)
}

/// The Close frame in answer to a Close with `payload`.
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
