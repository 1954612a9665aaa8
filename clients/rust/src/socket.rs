//! One WebSocket to a gateway. Reading never waits for writing, so that neither side can hold up the other.

use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::error::Error;
use crate::frame::Frame;
use crate::gateway::{Gateway, Io, OPEN};
use crate::key::Key;
use crate::signature;

/// Frames that are handed over and not written yet.
const QUEUE: usize = 64;

/// How long a goodbye may take.
const CLOSE: Duration = Duration::from_secs(2);

type Stream = WebSocketStream<Box<dyn Io>>;

pub(crate) struct Socket {
    /// Takes frames when there is room for them.
    pub out: mpsc::Sender<Message>,
    pub incoming: Incoming,
    /// Dropped with the socket: the writer says goodbye.
    pub open: oneshot::Sender<()>,
}

pub(crate) struct Incoming(SplitStream<Stream>);

/// What comes from the gateway.
pub(crate) enum Came {
    Frame(Box<Frame>),
    /// A sign of life that says nothing.
    Life,
    End(Error),
}

impl Socket {
    /// Opens a path of the protocol; `key` signs where it must be signed.
    pub(crate) async fn open(gateway: &Gateway, path: &str, key: Option<&Key>) -> Result<Self, Error> {
        let path = gateway.path(path);
        let mut request = gateway.websocket(&path)?.into_client_request().map_err(failed)?;
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("lastmile.v1"));
        if let Some(key) = key {
            let authority = gateway.authority();
            let signed = signature::Request { method: "GET", authority, path: &path, query: None, body: None };
            request.headers_mut().extend(signed.sign(key)?);
        }
        let opening = async { client_async(request, gateway.dial().await?).await.map_err(failed) };
        let opened = timeout(OPEN, opening).await;
        let (stream, _) = opened.map_err(|_| Error::temporary("unreachable", "the upgrade was not answered"))??;
        let (sink, stream) = stream.split();
        let (out, frames) = mpsc::channel(QUEUE);
        let (open, closed) = oneshot::channel();
        tokio::spawn(write(sink, frames, closed));
        Ok(Self { out, incoming: Incoming(stream), open })
    }
}

impl Incoming {
    /// The next thing; may be dropped while it waits.
    pub(crate) async fn next(&mut self) -> Came {
        match self.0.next().await {
            Some(Ok(Message::Text(text))) => {
                Frame::parse(&text).map_or(Came::Life, |frame| Came::Frame(Box::new(frame)))
            }
            Some(Ok(Message::Close(Some(close)))) => Came::End(Error::of_close(close.code.into(), &close.reason)),
            Some(Ok(Message::Close(None))) | None => Came::End(Error::lost("the connection ended without a word")),
            Some(Ok(_)) => Came::Life,
            Some(Err(error)) => Came::End(failed(error)),
        }
    }

    /// Why nothing can be written any more: what the gateway said at the end, if it is still to be read.
    pub(crate) async fn reason(&mut self) -> Error {
        let reading = async {
            loop {
                if let Came::End(error) = self.next().await {
                    return error;
                }
            }
        };
        timeout(CLOSE, reading).await.unwrap_or_else(|_| Error::lost("the connection broke"))
    }
}

/// Writes what comes until the socket is dropped. What is written together leaves together.
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
    // The reader hears of errors.
    let _ = timeout(CLOSE, sink.close()).await;
}

fn failed(error: tungstenite::Error) -> Error {
    match error {
        tungstenite::Error::Http(response) => {
            let (head, body) = response.into_parts();
            Error::of_answer(head.status, &head.headers, &body.unwrap_or_default())
        }
        tungstenite::Error::Capacity(error) => Error::new("unexpected", error.to_string()),
        error => Error::lost(error.to_string()),
    }
}
