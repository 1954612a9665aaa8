//! A peer of a room: every frame as it comes, and a gateway to meet at.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use lastmile::transport::config::Address;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

use crate::common::http::{Answer, connect, exchange};
use crate::common::{TestEnv, with_timeout};

/// A gateway with the roles of rooms: the listeners `pair`, `relay` (scope `deep/scope`) and those of every test.
pub async fn env(rooms: &str) -> TestEnv {
    crate::start(&format!(
        r#"
        [listeners.pair]
        address = "127.0.0.1:0"
        roles = ["pair"]
        [listeners.relay]
        address = "127.0.0.1:0"
        roles = ["relay"]
        [listeners.scoped]
        address = "127.0.0.1:0"
        roles = ["relay"]
        scope = "deep/scope"
        [rooms]
        {rooms}"#
    ))
    .await
}

/// What comes from the gateway; pings and pongs are passed over.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Text(String),
    Binary(Vec<u8>),
    Close(u16, String),
    /// The end without a Close frame that says why.
    Gone,
}

pub struct Peer(pub WebSocketStream<TokioIo<Upgraded>>);

impl Peer {
    pub async fn open(env: &TestEnv, path: &str) -> Self {
        Self::try_open(env, "pair", path, &[]).await.expect("an upgrade")
    }

    pub async fn native(env: &TestEnv, path: &str) -> Self {
        Self::try_open(env, "pair", path, &[("sec-websocket-protocol", "lastmile.pair.v1")]).await.expect("an upgrade")
    }

    pub async fn try_open(env: &TestEnv, listener: &str, path: &str, headers: &[(&str, &str)]) -> Result<Self, Answer> {
        Self::open_at(env.next_address(listener), path, headers).await
    }

    pub async fn open_at(address: &Address, path: &str, headers: &[(&str, &str)]) -> Result<Self, Answer> {
        let words = [
            ("host", address.to_string()),
            ("connection", "Upgrade".into()),
            ("upgrade", "websocket".into()),
            ("sec-websocket-version", "13".into()),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".into()),
        ];
        let mut request = Request::get(path);
        for (name, value) in words.iter().map(|(name, value)| (*name, value.as_str())).chain(headers.iter().copied()) {
            request = request.header(name, value);
        }
        match exchange(connect(address).await, request.body(Bytes::new()).unwrap()).await {
            (_, Some(upgraded)) => {
                let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
                let io = TokioIo::new(upgraded);
                Ok(Self(WebSocketStream::from_raw_socket(io, Role::Client, Some(config)).await))
            }
            (answer, None) => Err(answer),
        }
    }

    pub async fn say(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    pub async fn say_json(&mut self, frame: Value) {
        self.say(&frame.to_string()).await;
    }

    pub async fn send(&mut self, message: Message) {
        with_timeout("room to send", self.0.send(message)).await.expect("an open connection");
    }

    pub async fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.to_owned().into() };
        with_timeout("room to send", self.0.close(Some(frame))).await.expect("an open connection");
    }

    pub async fn next(&mut self) -> Received {
        loop {
            match with_timeout("a frame", self.0.next()).await {
                Some(Ok(Message::Text(text))) => return Received::Text(text.as_str().to_owned()),
                Some(Ok(Message::Binary(bytes))) => return Received::Binary(bytes.to_vec()),
                Some(Ok(Message::Close(Some(frame)))) => {
                    // The answer goes out, and the gateway ends the stream.
                    while let Some(Ok(_)) = with_timeout("the end of the stream", self.0.next()).await {}
                    return Received::Close(frame.code.into(), frame.reason.as_str().to_owned());
                }
                Some(Ok(Message::Close(None))) | Some(Err(_)) | None => return Received::Gone,
                Some(Ok(_)) => {}
            }
        }
    }

    /// The next frames must be these texts.
    pub async fn hears(&mut self, texts: &[&str]) {
        for text in texts {
            assert_eq!(self.next().await, Received::Text((*text).to_owned()));
        }
    }

    pub async fn text(&mut self) -> String {
        match self.next().await {
            Received::Text(text) => text,
            other => panic!("expected a text, got {other:?}"),
        }
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

    /// The next thing must be a Close.
    pub async fn closes(&mut self, code: u16, reason: &str) {
        assert_eq!(self.next().await, Received::Close(code, reason.to_owned()));
    }
}

/// The path of a new room of the channelserver form, and its first peer.
pub async fn channel(env: &TestEnv) -> (String, Peer) {
    let mut peer = Peer::open(env, "/v1/ws/").await;
    let link = peer.json().await["link"].as_str().unwrap().to_owned();
    (link, peer)
}

/// A room of our own form: what the gateway says of it.
pub async fn open_room(env: &TestEnv, asked: Value) -> Value {
    let answer = post_room(env, asked).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()
}

pub async fn post_room(env: &TestEnv, asked: Value) -> Answer {
    let address = env.next_address("pair");
    let body = Bytes::from(asked.to_string());
    let request = Request::post("/v1/rooms")
        .header("host", address.to_string())
        .header("content-type", "application/json")
        .header("content-length", body.len());
    crate::common::http::send(address, request.body(body).unwrap()).await
}

/// Joins with the join secret; gives the peer and its `joined`.
pub async fn join(env: &TestEnv, room: &Value) -> (Peer, Value) {
    let mut peer = Peer::native(env, room["link"].as_str().unwrap()).await;
    peer.say_json(json!({"type": "join", "secret": room["join_secret"]})).await;
    let joined = peer.expect("joined").await;
    (peer, joined)
}

/// Two peers who know of each other, in a room of the form.
pub async fn pair(env: &TestEnv, form: &str) -> (Peer, Peer) {
    match form {
        "channelserver" => {
            let (link, a) = channel(env).await;
            let mut b = Peer::open(env, &link).await;
            b.text().await;
            (a, b)
        }
        "relay" => {
            static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            let path = format!("/v1/relay/{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            let mut a = Peer::open(env, &path).await;
            a.hears(&["/status:waiting"]).await;
            let mut b = Peer::open(env, &path).await;
            b.hears(&["/status:connected"]).await;
            a.hears(&["/remote:open", "/status:connected"]).await;
            (a, b)
        }
        _ => {
            let room = open_room(env, json!({})).await;
            let (mut a, _) = join(env, &room).await;
            let (b, _) = join(env, &room).await;
            a.expect("peer_joined").await;
            (a, b)
        }
    }
}

/// A text of a peer as its form writes it.
pub fn encode(form: &str, text: &str) -> String {
    if form == "native" { json!({"type": "message", "data": text}).to_string() } else { text.to_owned() }
}

/// The text in what the other peer hears.
pub fn decode(form: &str, text: &str) -> String {
    let member = match form {
        "relay" => return text.to_owned(),
        "channelserver" => "message",
        _ => "data",
    };
    serde_json::from_str::<Value>(text).unwrap()[member].as_str().unwrap().to_owned()
}

pub const FORMS: [&str; 3] = ["channelserver", "relay", "native"];
