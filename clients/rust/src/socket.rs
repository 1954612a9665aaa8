//! One WebSocket to a gateway. Reads never wait for writes, so neither side can block the other.

use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderValue, StatusCode};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::error::Error;
use crate::gateway::{CONNECT_TIMEOUT, Gateway, Io};
use crate::key::Key;
use crate::signature;

/// Frames in the write queue.
const WRITE_QUEUE_FRAMES: usize = 64;

/// Longest wait for the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

type Stream = WebSocketStream<Box<dyn Io>>;

pub(crate) struct Socket {
    /// Queue of frames to write.
    pub writer: mpsc::Sender<Message>,
    pub reader: Reader,
    /// Dropping it makes the writer close the WebSocket.
    pub keep_open: oneshot::Sender<()>,
}

pub(crate) struct Reader(SplitStream<Stream>);

/// The credential and the subprotocol of an upgrade.
pub(crate) enum Upgrade<'a> {
    /// A subscriber, which authenticates in `hello`.
    Subscriber,
    /// A publisher, which signs the request.
    Signed(&'a Key),
    /// A peer of a room.
    Pair { token: Option<&'a str> },
}

/// One event of the connection.
pub(crate) enum Incoming {
    Text(Utf8Bytes),
    /// Activity without a frame for the caller, such as a ping.
    Activity,
    Closed(Error),
}

impl Socket {
    /// Opens a protocol path.
    pub(crate) async fn open(gateway: &Gateway, path: &str, upgrade: Upgrade<'_>) -> Result<Self, Error> {
        let path = gateway.path(path);
        let mut request = gateway.websocket(&path)?.into_client_request().map_err(upgrade_error)?;
        let headers = request.headers_mut();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(upgrade.subprotocol()));
        match upgrade {
            Upgrade::Signed(key) => {
                let authority = gateway.authority();
                let signed = signature::Request { method: "GET", authority, path: &path, query: None, body: None };
                headers.extend(signed.sign(key)?);
            }
            Upgrade::Pair { token: Some(token) } => {
                let bearer = HeaderValue::try_from(format!("Bearer {token}"));
                let mut bearer = bearer.map_err(|_| Error::new("token", "the token cannot be sent in a header"))?;
                bearer.set_sensitive(true);
                headers.insert(AUTHORIZATION, bearer);
            }
            Upgrade::Subscriber | Upgrade::Pair { token: None } => {}
        }
        let opening = async { client_async(request, gateway.dial().await?).await.map_err(upgrade_error) };
        let opened = timeout(CONNECT_TIMEOUT, opening).await;
        let (stream, _) = opened.map_err(|_| Error::temporary("unreachable", "timeout of the WebSocket upgrade"))??;
        let (sink, stream) = stream.split();
        let (writer, frames) = mpsc::channel(WRITE_QUEUE_FRAMES);
        let (keep_open, closed) = oneshot::channel();
        tokio::spawn(write(sink, frames, closed));
        Ok(Self { writer, reader: Reader(stream), keep_open })
    }
}

impl Upgrade<'_> {
    fn subprotocol(&self) -> &'static str {
        match self {
            Self::Subscriber | Self::Signed(_) => "lastmile.v1",
            Self::Pair { .. } => "lastmile.pair.v1",
        }
    }
}

impl Reader {
    /// Returns the next event. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Incoming {
        match self.0.next().await {
            Some(Ok(Message::Text(text))) => Incoming::Text(text),
            Some(Ok(Message::Close(Some(close)))) => {
                Incoming::Closed(Error::from_close(close.code.into(), &close.reason))
            }
            Some(Ok(Message::Close(None))) | None => {
                Incoming::Closed(Error::connection_lost("connection closed without a reason"))
            }
            Some(Ok(_)) => Incoming::Activity,
            Some(Err(error)) => Incoming::Closed(connection_error(error)),
        }
    }

    /// Returns why writes fail: the gateway's Close frame, if it can still be read.
    pub(crate) async fn close_reason(&mut self) -> Error {
        let reading = async {
            loop {
                if let Incoming::Closed(error) = self.next().await {
                    return error;
                }
            }
        };
        timeout(CLOSE_TIMEOUT, reading).await.unwrap_or_else(|_| Error::connection_lost("connection lost"))
    }
}

/// Writes frames until the socket is dropped. Queued frames are flushed together.
async fn write(
    mut sink: SplitSink<Stream, Message>,
    mut frames: mpsc::Receiver<Message>,
    mut closed: oneshot::Receiver<()>,
) {
    let writing = async {
        while let Some(frame) = frames.recv().await {
            sink.feed(frame).await?;
            if frames.is_empty() {
                sink.flush().await?;
            }
        }
        Ok::<_, tungstenite::Error>(())
    };
    tokio::select! {
        _ = writing => {}
        _ = &mut closed => {}
    }
    // The reader reports write errors.
    let _ = timeout(CLOSE_TIMEOUT, sink.close()).await;
}

fn upgrade_error(error: tungstenite::Error) -> Error {
    match error {
        tungstenite::Error::Http(response) => {
            let (head, body) = response.into_parts();
            let error = Error::from_response(head.status, &head.headers, &body.unwrap_or_default());
            // An upgrade is safe to repeat: a full or failing gateway may accept it later.
            let is_passing = head.status.is_server_error() || head.status == StatusCode::TOO_MANY_REQUESTS;
            Error { temporary: error.temporary || is_passing, ..error }
        }
        error => Error::temporary("unreachable", format!("cannot connect: {error}")),
    }
}

fn connection_error(error: tungstenite::Error) -> Error {
    match error {
        tungstenite::Error::Capacity(error) => Error::new("unexpected", error.to_string()),
        error => Error::connection_lost(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_gateway_is_temporary() {
        let of = |status: u16, slug: &str| {
            let body = format!(r#"{{"type":"/problems/{slug}","status":{status}}}"#).into_bytes();
            let response = http::Response::builder().status(status).body(Some(body)).unwrap();
            upgrade_error(tungstenite::Error::Http(Box::new(response))).temporary
        };
        assert!(of(429, "limit-reached") && of(500, "internal") && of(503, "draining"));
        assert!(!of(401, "unauthenticated") && !of(403, "channel-forbidden") && !of(404, "not-found"));
    }
}
