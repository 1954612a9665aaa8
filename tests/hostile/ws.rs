//! WebSocket without a library: any frame can be sent, and every frame of the gateway is checked.

use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use serde_json::{Value, json};
use test_support::with_timeout;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::{Reply, connect, read_reply};

pub const TEXT: u8 = 0x81;
/// A whole text that is compressed.
pub const DEFLATED: u8 = 0xc1;
pub const BINARY: u8 = 0x82;
pub const CONTINUATION: u8 = 0x00;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;
/// Ends the first byte of a frame that is the last of its message.
pub const FIN: u8 = 0x80;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A masked frame with any first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = match payload.len() {
        length @ 0..=125 => vec![first, 0x80 | length as u8],
        length @ 126..=65535 => [&[first, 0x80 | 126][..], &(length as u16).to_be_bytes()].concat(),
        length => return [announce(first, length as u64), masked(payload)].concat(),
    };
    frame.extend(MASK);
    frame.extend(masked(payload));
    frame
}

/// The header of a frame that announces a length in its long form.
pub fn announce(first: u8, length: u64) -> Vec<u8> {
    [&[first, 0x80 | 127][..], &length.to_be_bytes(), &MASK].concat()
}

pub fn masked(payload: &[u8]) -> Vec<u8> {
    payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

pub fn text(text: &str) -> Vec<u8> {
    frame(TEXT, text.as_bytes())
}

pub fn command(command: Value) -> Vec<u8> {
    text(&command.to_string())
}

/// A well-formed upgrade with more header lines.
pub fn upgrade(path: &str, host: &str, more: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
    .into_bytes()
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By a Close frame: its code, 0 for none, and its reason.
    Close(u16, String),
    /// Without one.
    Cut,
}

impl End {
    pub fn code(&self) -> u16 {
        match self {
            Self::Close(code, _) => *code,
            Self::Cut => 0,
        }
    }
}

/// A frame of the gateway.
#[derive(Debug)]
pub struct Frame {
    pub first: u8,
    pub payload: Vec<u8>,
}

/// The client's end of a WebSocket.
pub struct RawWs<S = TcpStream> {
    pub stream: S,
    held: BytesMut,
    /// The answer to an offer of compression.
    pub extension: Option<String>,
    /// Frames that came compressed.
    pub deflated: u64,
}

impl RawWs {
    /// `headers` are further header lines; or the answer that was no upgrade.
    pub async fn open(address: SocketAddr, path: &str, headers: &str) -> Result<Self, Reply> {
        let stream = connect(address).await;
        Self::over(stream, &upgrade(path, &address.to_string(), headers)).await
    }
}

impl<S: AsyncReadExt + AsyncWriteExt + Unpin> RawWs<S> {
    /// Sends the bytes of an upgrade, and whatever stands behind it.
    pub async fn over(mut stream: S, request: &[u8]) -> Result<Self, Reply> {
        crate::raw::send(&mut stream, request).await;
        let reply = read_reply(&mut stream).await.expect("an answer to the upgrade");
        if reply.status != 101 {
            return Err(reply);
        }
        assert_eq!(reply.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        let extension = reply.header("sec-websocket-extensions").map(str::to_owned);
        let offers = request.windows(18).any(|bytes| bytes == b"permessage-deflate");
        assert!(offers || extension.is_none(), "{extension:?} was not offered");
        Ok(Self { stream, held: BytesMut::new(), extension, deflated: 0 })
    }

    /// Sends as much as the gateway takes.
    pub async fn send(&mut self, bytes: &[u8]) {
        crate::raw::send(&mut self.stream, bytes).await;
    }

    /// The next frame, which must be one that RFC 6455 allows a server.
    pub async fn frame(&mut self) -> Result<Frame, End> {
        loop {
            if let Some(frame) = self.take_frame() {
                return self.check(frame);
            }
            // Few bytes while little comes: thousands of these are held at once.
            self.held.reserve(if self.held.len() < 4096 { 4096 } else { 65536 });
            match with_timeout("a frame", self.stream.read_buf(&mut self.held)).await {
                Ok(1..) => {}
                _ => return Err(End::Cut),
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let held = &self.held;
        let (start, length) = match *held.get(1)? {
            126 => (4, usize::from(u16::from_be_bytes(held.get(2..4)?.try_into().unwrap()))),
            127 => (10, u64::from_be_bytes(held.get(2..10)?.try_into().unwrap()) as usize),
            short => {
                assert!(short < 126, "a server's frame is not masked");
                (2, usize::from(short))
            }
        };
        if held.len() < start + length {
            return None;
        }
        let frame = Frame { first: held[0], payload: held[start..start + length].to_vec() };
        self.held.advance(start + length);
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
        Some(frame)
    }

    fn check(&mut self, frame: Frame) -> Result<Frame, End> {
        match frame.first {
            CLOSE if frame.payload.is_empty() => Err(End::Close(0, String::new())),
            CLOSE => {
                let code = u16::from_be_bytes(frame.payload[..2].try_into().unwrap());
                Err(End::Close(code, String::from_utf8(frame.payload[2..].to_vec()).unwrap()))
            }
            TEXT | PING | PONG => Ok(frame),
            DEFLATED if self.extension.is_some() => {
                self.deflated += 1;
                Ok(Frame { first: TEXT, payload: crate::deflate::inflate(&frame.payload) })
            }
            other => panic!("the gateway does not send frames that begin with {other:#x}"),
        }
    }

    /// The next text; pings and pongs are passed over.
    pub async fn text(&mut self) -> Result<String, End> {
        loop {
            let frame = self.frame().await?;
            if frame.first == TEXT {
                return Ok(String::from_utf8(frame.payload).expect("text is UTF-8"));
            }
        }
    }

    pub async fn json(&mut self) -> Value {
        let text = self.text().await.unwrap_or_else(|end| panic!("the connection ended: {end:?}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Reads until the connection ends, and answers its Close as a client has to.
    pub async fn end(&mut self) -> End {
        let end = loop {
            if let Err(end) = self.frame().await {
                break end;
            }
        };
        if let End::Close(code, _) = end {
            self.send(&frame(CLOSE, &code.to_be_bytes()[..if code == 0 { 0 } else { 2 }])).await;
            let rest = crate::raw::read_to_end(&mut self.stream, test_support::TEST_TIMEOUT).await;
            assert!(rest.is_some(), "the gateway did not close the socket after {end:?}");
        }
        end
    }

    pub async fn hello(&mut self) -> Value {
        self.send(&text(r#"{"type":"hello"}"#)).await;
        let welcome = self.json().await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        welcome
    }

    pub async fn subscribe(&mut self, channel: &str) -> Value {
        self.send(&command(json!({"type": "subscribe", "id": "s", "channel": channel}))).await;
        let subscribed = self.json().await;
        assert_eq!(subscribed["type"], "subscribed", "{subscribed}");
        subscribed
    }

    /// The connection is whole: it answers a ping of the protocol.
    pub async fn is_alive(&mut self) {
        self.send(&text(r#"{"type":"ping","id":"alive"}"#)).await;
        assert_eq!(self.json().await, json!({"type": "pong", "id": "alive"}));
    }
}

/// The offset of a `message`, without parsing all of it.
#[track_caller]
pub fn offset_of(message: &str) -> u64 {
    let rest = message.split_once(r#""offset":"#).unwrap_or_else(|| panic!("no message: {message:.200}")).1;
    rest[..rest.find(',').unwrap()].parse().unwrap()
}
