//! WebSocket framing (RFC 6455) for benchmarks: no fragments, no extensions.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The fixed key of all clients. It is the example of RFC 6455.
pub const CLIENT_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

const CLIENT_MASK: [u8; 4] = [0x5a, 0xa5, 0x3c, 0xc3];

/// `Sec-WebSocket-Accept` for a client's key (RFC 6455 section 4.2.2).
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// Value of a header in a request or response head, by case-insensitive name.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Length of the head of an HTTP message, including its empty line.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

/// A frame in a receive buffer: the payload is at `start..end`.
#[derive(Clone, Copy)]
pub struct Frame {
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    pub start: usize,
    pub end: usize,
}

/// Parses the first frame of `bytes`, if it is complete.
pub fn parse(bytes: &[u8]) -> Option<Frame> {
    let (&[first, second], rest) = bytes.split_first_chunk::<2>()?;
    let (length, mut start) = match second & 0x7f {
        126 => (u16::from_be_bytes(*rest.first_chunk()?) as usize, 4),
        127 => (u64::from_be_bytes(*rest.first_chunk()?) as usize, 10),
        short => (short as usize, 2),
    };
    let mask = if second & 0x80 != 0 {
        let mask = *bytes.get(start..)?.first_chunk::<4>()?;
        start += 4;
        Some(mask)
    } else {
        None
    };
    let end = start + length;
    (bytes.len() >= end).then_some(Frame { opcode: first & 0x0f, mask, start, end })
}

/// Appends a server frame (unmasked).
pub fn server_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    head(out, opcode, payload.len(), 0);
    out.extend_from_slice(payload);
}

/// Appends a client frame (masked).
pub fn client_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    head(out, opcode, payload.len(), 0x80);
    out.extend_from_slice(&CLIENT_MASK);
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[start..], CLIENT_MASK);
}

/// Applies or removes a mask.
pub fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let mut chunks = bytes.chunks_exact_mut(4);
    for chunk in &mut chunks {
        for i in 0..4 {
            chunk[i] ^= mask[i];
        }
    }
    for (byte, m) in chunks.into_remainder().iter_mut().zip(mask) {
        *byte ^= m;
    }
}

fn head(out: &mut Vec<u8>, opcode: u8, length: usize, mask_bit: u8) {
    out.push(0x80 | opcode);
    match length {
        0..126 => out.push(mask_bit | length as u8),
        126..65536 => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_key_of_rfc() {
        assert_eq!(accept_key(CLIENT_KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn client_frame_round_trip() {
        for length in [0, 1, 125, 126, 1000, 65535, 65536, 70000] {
            let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut bytes = Vec::new();
            client_frame(&mut bytes, TEXT, &payload);
            assert!(parse(&bytes[..bytes.len() - 1]).is_none());
            let frame = parse(&bytes).unwrap();
            let mut got = bytes[frame.start..frame.end].to_vec();
            unmask(&mut got, frame.mask.unwrap());
            assert_eq!((frame.end, got), (bytes.len(), payload));
        }
    }
}
