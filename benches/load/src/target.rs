//! Wire format of a server: frames of subscribers, publishers and room peers, and the sequence number of a delivery.
//!
//! `raw` is the format of the floor and the compared servers: `/sub` subscribes, a frame sent to `/pub` is a
//! publication, `/relay/ID` is a room. `lastmile` is the gateway's protocol.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::sign::Key;
use crate::ws;

#[derive(Clone, Copy, PartialEq)]
pub enum Dialect {
    Raw,
    Lastmile,
}

pub struct Target {
    pub dialect: Dialect,
    /// Port for subscribers and rooms. `publish_port` is the one for publishers.
    pub port: u16,
    pub publish_port: u16,
    /// Number of servers on consecutive ports; clients and publishers are distributed over them.
    pub nodes: usize,
    /// The publisher's key, required by the gateway.
    pub key: Option<Key>,
    /// Tokens that subscribers use in turn; empty where no token is required.
    pub tokens: Vec<String>,
    /// Number of channels that publications are distributed over.
    pub channels: usize,
    /// Payload length in bytes.
    pub size: usize,
}

/// The frames that a client sends to connect, and the response that completes its handshake.
pub struct Handshake {
    pub request: String,
    /// Encoded frames to send right after the upgrade.
    pub frames: Vec<u8>,
    /// A substring of the frame that completes the handshake. `None`: the upgrade completes it.
    pub ready_marker: Option<&'static str>,
}

impl Target {
    pub fn addresses(&self) -> Vec<SocketAddrV4> {
        (0..self.nodes).map(|node| SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port + node as u16)).collect()
    }

    pub fn publish_address(&self, publisher: usize) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.publish_port + (publisher % self.nodes) as u16)
    }

    /// Subscriber `i` subscribes to channel `i % channels`.
    pub fn subscriber(&self, i: usize) -> Handshake {
        if self.dialect == Dialect::Raw {
            return Handshake { request: upgrade(self.port, "/sub", ""), frames: Vec::new(), ready_marker: None };
        }
        let token = match self.tokens.get(i % self.tokens.len().max(1)) {
            Some(token) => format!(r#","token":"{token}""#),
            None => String::new(),
        };
        let channel = i % self.channels;
        let mut frames = Vec::new();
        ws::client_frame(&mut frames, ws::TEXT, format!(r#"{{"type":"hello"{token}}}"#).as_bytes());
        let subscribe = format!(r#"{{"type":"subscribe","id":"1","channel":"bench.{channel}"}}"#);
        ws::client_frame(&mut frames, ws::TEXT, subscribe.as_bytes());
        let request = upgrade(self.port, "/v1/subscribe", "Sec-WebSocket-Protocol: lastmile.v1\r\n");
        Handshake { request, frames, ready_marker: Some(r#""type":"subscribed""#) }
    }

    /// A peer of a room with two peers.
    pub fn peer(&self, room: usize) -> Handshake {
        match self.dialect {
            Dialect::Raw => Handshake {
                request: upgrade(self.port, &format!("/relay/room-{room}"), ""),
                frames: Vec::new(),
                ready_marker: None,
            },
            Dialect::Lastmile => Handshake {
                request: upgrade(self.port, &format!("/v1/relay/room-{room}"), ""),
                frames: Vec::new(),
                ready_marker: Some("/status:connected"),
            },
        }
    }

    pub fn publisher(&self, publisher: usize) -> String {
        let port = self.publish_address(publisher).port();
        match &self.key {
            Some(key) => upgrade(port, "/v1/publish", &key.sign("GET", &authority(port), "/v1/publish", None)),
            None => upgrade(port, "/pub", ""),
        }
    }

    /// Whether the server confirms each publication over a WebSocket.
    pub fn confirms(&self) -> bool {
        self.dialect == Dialect::Lastmile
    }

    /// Appends publication `seq` of a channel as a client frame.
    pub fn publication(&self, channel: usize, seq: u64, out: &mut Vec<u8>) {
        let mut payload = Vec::with_capacity(self.size + 100);
        if self.dialect == Dialect::Lastmile {
            let head = format!(r#"{{"type":"publish","id":"{seq}","channel":"bench.{channel}","data":"#);
            payload.extend_from_slice(head.as_bytes());
        }
        self.payload(seq, &mut payload);
        if self.dialect == Dialect::Lastmile {
            payload.push(b'}');
        }
        ws::client_frame(out, ws::TEXT, &payload);
    }

    /// The publication as an HTTP request, signed if the server requires it.
    pub fn post(&self, seq: u64) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.size);
        self.payload(seq, &mut body);
        const JSON_CONTENT_TYPE: &str = "application/json";
        let host = authority(self.publish_port);
        let (path, headers) = match &self.key {
            Some(key) => {
                let path = "/v1/channels/bench.0/messages";
                (path, key.sign("POST", &host, path, Some((JSON_CONTENT_TYPE, &body))))
            }
            None => ("/pub", format!("Content-Type: {JSON_CONTENT_TYPE}\r\n")),
        };
        let length = body.len();
        let mut request =
            format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {length}\r\n\r\n").into_bytes();
        request.extend_from_slice(&body);
        request
    }

    /// The sequence number in a delivered frame.
    pub fn seq(&self, frame: &[u8]) -> Option<u64> {
        // Fast path: the payload is the last member of a gateway message, at a fixed distance from its end.
        let from_end = self.size + usize::from(self.dialect == Dialect::Lastmile);
        frame.len().checked_sub(from_end).and_then(|at| number_at(frame, at)).or_else(|| {
            let at = frame.windows(2).position(|w| w == SEQ_MARKER)?;
            number_at(frame, at)
        })
    }

    /// Appends a JSON string of `size` bytes that begins with the sequence number.
    pub fn payload(&self, seq: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(format!("\"#{seq:0width$}#", width = SEQ_DIGITS).as_bytes());
        out.resize(start + self.size - 1, b'x');
        out.push(b'"');
    }
}

/// The shortest payload that holds a sequence number.
pub const MIN_PAYLOAD_BYTES: usize = SEQ_DIGITS + 4;

const SEQ_MARKER: &[u8] = b"\"#";
const SEQ_DIGITS: usize = 10;

fn number_at(frame: &[u8], at: usize) -> Option<u64> {
    let text = frame.get(at..at + 2 + SEQ_DIGITS)?;
    if &text[..2] != SEQ_MARKER {
        return None;
    }
    Some(text[2..].iter().fold(0, |n, digit| n * 10 + u64::from(digit.wrapping_sub(b'0'))))
}

fn authority(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn upgrade(port: u16, path: &str, headers: &str) -> String {
    let (host, key) = (authority(port), ws::CLIENT_KEY);
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{headers}\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_sequence_number() {
        let target = Target {
            dialect: Dialect::Lastmile,
            port: 1,
            publish_port: 1,
            nodes: 1,
            key: None,
            tokens: Vec::new(),
            channels: 1,
            size: 64,
        };
        let mut data = Vec::new();
        target.payload(4711, &mut data);
        assert_eq!(data.len(), 64);
        let data = String::from_utf8(data).unwrap();
        assert_eq!(target.seq(format!(r#"{{"type":"message","data":{data}}}"#).as_bytes()), Some(4711));
        assert_eq!(target.seq(format!(r#"{{"data":{data},"type":"message"}}"#).as_bytes()), Some(4711));
        assert_eq!(target.seq(br#"{"type":"welcome"}"#), None);
    }
}
