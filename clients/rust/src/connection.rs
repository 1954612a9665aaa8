//! One WebSocket with whole frames as text, without reconnecting.

use std::time::Duration;

use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::error::Error;
use crate::gateway::Gateway;
use crate::key::Key;
use crate::socket::{Incoming, Socket, Upgrade};

/// One connection whose frames the caller writes and reads as JSON texts, for programs that print or forward them.
///
/// It does not reconnect; [`crate::Publisher`] and [`crate::Client`] do.
pub struct Connection(Socket);

impl Connection {
    /// Opens a publisher's WebSocket, signed with `key`.
    pub async fn publisher(gateway: &Gateway, key: &Key) -> Result<Self, Error> {
        Socket::open(gateway, "/v1/publish", Upgrade::Signed(key)).await.map(Self)
    }

    pub(crate) fn new(socket: Socket) -> Self {
        Self(socket)
    }

    /// Queues a frame once the write queue has space. Queued frames leave together.
    pub async fn send(&mut self, frame: impl Into<String>) -> Result<(), Error> {
        match self.0.writer.send(Message::text(frame.into())).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.0.reader.close_reason().await),
        }
    }

    /// Returns the next frame. `max_silence` without any activity, pings included, ends the connection. Cancel-safe.
    pub async fn next(&mut self, max_silence: Duration) -> Result<String, Error> {
        self.next_text(max_silence).await.map(|text| text.as_str().to_owned())
    }

    pub(crate) async fn next_text(&mut self, max_silence: Duration) -> Result<Utf8Bytes, Error> {
        loop {
            match timeout(max_silence, self.0.reader.next()).await {
                Ok(Incoming::Text(text)) => return Ok(text),
                Ok(Incoming::Activity) => {}
                Ok(Incoming::Closed(error)) => return Err(error),
                Err(_) => {
                    let message = format!("no frame from the gateway for {} s", max_silence.as_secs());
                    return Err(Error::temporary("ping_timeout", message));
                }
            }
        }
    }

    /// Writes the queued frames, then closes the WebSocket and waits a little for the gateway's Close.
    pub async fn close(self) {
        let Socket { writer, mut reader, keep_open } = self.0;
        drop(writer);
        reader.close_reason().await;
        drop(keep_open);
    }
}
