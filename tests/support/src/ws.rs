//! A WebSocket client on a complete library, with the commands of the protocol.

use base64::Engine;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue, Request};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use lastmile::transport::config::Address;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use crate::http::{Answer, connect, exchange};
use crate::with_timeout;

pub struct Ws {
    stream: WebSocketStream<TokioIo<Upgraded>>,
    /// The answer to the upgrade.
    pub answer: Answer,
    next_id: u64,
}

/// How a connection ended: the code and the reason of its Close frame, or none.
pub type End = Option<(u16, String)>;

/// A message of the gateway. Pings and pongs are skipped.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Text(String),
    Binary(Vec<u8>),
    Close(u16, String),
    /// The end of the stream without a Close frame that has a code.
    Gone,
}

impl Ws {
    /// An upgrade without a signature.
    pub fn request(authority: &str, path: &str, headers: &[(&str, &str)]) -> Request<Bytes> {
        let mut request = Request::get(path).header("host", authority).body(Bytes::new()).unwrap();
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap();
            request.headers_mut().append(name, HeaderValue::try_from(*value).unwrap());
        }
        request
    }

    /// Upgrades without a signature.
    pub async fn connect(address: &Address, path: &str, headers: &[(&str, &str)]) -> Result<Self, Answer> {
        Self::open(address, Self::request(&address.to_string(), path, headers)).await
    }

    /// Upgrades with `request`, to which the headers of a WebSocket are added; or the answer that was none.
    pub async fn open(address: &Address, mut request: Request<Bytes>) -> Result<Self, Answer> {
        let mut key = [0; 16];
        getrandom::fill(&mut key).unwrap();
        let key = base64::engine::general_purpose::STANDARD.encode(key);
        let words = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];
        for (name, value) in words.into_iter().chain([("sec-websocket-key", key.as_str())]) {
            request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::try_from(value).unwrap());
        }
        match exchange(connect(address).await, request).await {
            (answer, Some(upgraded)) => {
                let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
                let io = TokioIo::new(upgraded);
                let stream = WebSocketStream::from_raw_socket(io, Role::Client, Some(config)).await;
                Ok(Self { stream, answer, next_id: 0 })
            }
            (answer, None) => Err(answer),
        }
    }

    pub async fn send_message(&mut self, message: Message) {
        with_timeout("room to send", self.stream.send(message)).await.expect("an open connection");
    }

    /// Puts a message where the next flush takes it.
    pub async fn feed(&mut self, text: String) {
        with_timeout("room to send", self.stream.feed(Message::text(text))).await.expect("an open connection");
    }

    pub async fn flush(&mut self) {
        with_timeout("room to send", self.stream.flush()).await.expect("an open connection");
    }

    /// Sends to a connection that may have ended; false if it has.
    pub async fn try_send_text(&mut self, text: &str) -> bool {
        with_timeout("room to send", self.stream.send(Message::text(text))).await.is_ok()
    }

    pub async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    pub async fn send(&mut self, command: Value) {
        self.send_text(&command.to_string()).await;
    }

    /// The next message of the gateway.
    pub async fn receive(&mut self) -> Received {
        loop {
            match with_timeout("a frame", self.stream.next()).await {
                Some(Ok(Message::Text(text))) => return Received::Text(text.as_str().to_owned()),
                Some(Ok(Message::Binary(bytes))) => return Received::Binary(bytes.to_vec()),
                Some(Ok(Message::Close(frame))) => {
                    // The answer is sent, and the gateway ends the stream.
                    while let Some(Ok(_)) = with_timeout("the end of the stream", self.stream.next()).await {}
                    return frame.map_or(Received::Gone, |frame| {
                        Received::Close(frame.code.into(), frame.reason.as_str().to_owned())
                    });
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Received::Gone,
            }
        }
    }

    /// The next text, or how the connection ended.
    pub async fn next(&mut self) -> Result<String, End> {
        match self.receive().await {
            Received::Text(text) => Ok(text),
            Received::Binary(bytes) => panic!("the gateway sends no binary: {bytes:?}"),
            Received::Close(code, reason) => Err(Some((code, reason))),
            Received::Gone => Err(None),
        }
    }

    /// The next messages must be these texts.
    pub async fn expect_texts(&mut self, texts: &[&str]) {
        for text in texts {
            assert_eq!(self.receive().await, Received::Text((*text).to_owned()));
        }
    }

    /// The payload of the next pong of the protocol below.
    pub async fn pong(&mut self) -> Vec<u8> {
        loop {
            match with_timeout("a pong", self.stream.next()).await {
                Some(Ok(Message::Pong(payload))) => return payload.to_vec(),
                Some(Ok(Message::Ping(_))) => {}
                other => panic!("expected a pong, got {other:?}"),
            }
        }
    }

    /// Sends a Close; the answer is still to be read.
    pub async fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.send_message(Message::Close(Some(frame))).await;
    }

    /// The next text.
    pub async fn text(&mut self) -> String {
        self.next().await.unwrap_or_else(|end| panic!("the connection ended: {end:?}"))
    }

    pub async fn json(&mut self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The next frame, which must be of this type.
    pub async fn expect(&mut self, kind: &str) -> Value {
        let frame = self.json().await;
        assert_eq!(frame["type"], kind, "{frame}");
        frame
    }

    /// The next frame must be an error with this code.
    pub async fn expect_error(&mut self, code: &str) -> Value {
        let frame = self.expect("error").await;
        assert_eq!(frame["code"], code, "{frame}");
        frame
    }

    /// The next thing must be a Close.
    pub async fn expect_close(&mut self, code: u16, reason: &str) {
        assert_eq!(self.receive().await, Received::Close(code, reason.to_owned()));
    }

    /// No frame is pending before the answer to a ping.
    pub async fn expect_silence(&mut self) {
        let id = self.new_id();
        self.send(json!({"type": "ping", "id": id})).await;
        let frame = self.json().await;
        assert_eq!(frame, json!({"type": "pong", "id": id}), "expected nothing");
    }

    /// Sends `hello`; returns the `welcome`.
    pub async fn hello(&mut self, token: Option<&str>) -> Value {
        let hello = match token {
            Some(token) => json!({"type": "hello", "token": token}),
            None => json!({"type": "hello"}),
        };
        self.send(hello).await;
        self.expect("welcome").await
    }

    /// Subscribes; gives `subscribed`.
    pub async fn subscribe(&mut self, channel: &str) -> Value {
        self.subscribe_with(channel, json!({})).await
    }

    /// Subscribes with more members of the command, such as `since`.
    pub async fn subscribe_with(&mut self, channel: &str, more: Value) -> Value {
        let id = self.new_id();
        let mut command = json!({"type": "subscribe", "id": id, "channel": channel});
        command.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.send(command).await;
        let frame = self.expect("subscribed").await;
        assert_eq!((&frame["id"], &frame["channel"]), (&json!(id), &json!(channel)));
        frame
    }

    /// Subscribing must be refused with this code.
    pub async fn subscribe_refused(&mut self, channel: &str, code: &str) {
        let id = self.new_id();
        self.send(json!({"type": "subscribe", "id": id, "channel": channel})).await;
        let error = self.expect_error(code).await;
        assert_eq!(error["id"], id);
    }

    fn new_id(&mut self) -> String {
        self.next_id += 1;
        self.next_id.to_string()
    }
}
