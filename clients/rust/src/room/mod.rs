//! Rooms of the subprotocol `lastmile.pair.v1`: messages between peers, over a WebSocket that reconnects.

mod event;
mod task;

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use serde::Serialize;
use tokio::sync::mpsc;

pub use event::{RoomEvent, RoomMessage, RoomPeer};

use crate::error::Error;
use crate::gateway::Gateway;
use crate::json;
use crate::token::TokenSource;
use task::RoomTask;

/// Events in the buffer. A full one pauses reading, which slows the other peers down.
const EVENT_BUFFER: usize = 256;

/// Messages that wait for the connection.
const MESSAGE_QUEUE: usize = 16;

/// One peer's seat in a room, as a stream of events. An error ends it. Dropping it gives the seat up.
///
/// After a lost connection it resumes the seat for [`Gateway::with_retries_for`].
#[derive(Debug)]
pub struct Room {
    frames: mpsc::Sender<String>,
    events: mpsc::Receiver<Result<RoomEvent, Error>>,
}

/// A new room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoomOptions {
    /// Requests a short code to read out. Default: none.
    pub code: Option<CodeFormat>,
}

/// Formats of short codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeFormat {
    /// Three words.
    Words,
    /// Six digits.
    Digits,
}

impl RoomOptions {
    /// Requests a short code to read out.
    pub fn with_code(code: CodeFormat) -> Self {
        Self { code: Some(code) }
    }
}

impl Room {
    /// Opens a room and takes its first seat. A refusal is an event. Needs a tokio runtime, as do the other
    /// constructors.
    pub fn open<G>(gateway: G, token: TokenSource, options: &RoomOptions) -> Result<Self, Error>
    where
        G: TryInto<Gateway>,
        Error: From<G::Error>,
    {
        let code = match options.code {
            None => "",
            Some(CodeFormat::Words) => r#","code":"words""#,
            Some(CodeFormat::Digits) => r#","code":"digits""#,
        };
        Ok(Self::start(gateway.try_into()?, token, "/v1/rooms".to_owned(), format!(r#"{{"type":"open"{code}}}"#)))
    }

    /// Joins a room by a short code.
    pub fn join_with_code<G>(gateway: G, token: TokenSource, code: &str) -> Result<Self, Error>
    where
        G: TryInto<Gateway>,
        Error: From<G::Error>,
    {
        let frame = format!(r#"{{"type":"join","code":{}}}"#, json::write(code)?);
        Ok(Self::start(gateway.try_into()?, token, "/v1/rooms".to_owned(), frame))
    }

    /// Joins a room by its id and join secret.
    pub fn join_with_secret<G>(gateway: G, token: TokenSource, room: &str, secret: &str) -> Result<Self, Error>
    where
        G: TryInto<Gateway>,
        Error: From<G::Error>,
    {
        let frame = format!(r#"{{"type":"join","secret":{}}}"#, json::write(secret)?);
        Ok(Self::start(gateway.try_into()?, token, format!("/v1/rooms/{room}"), frame))
    }

    /// Returns the next event; `None` after an error.
    pub async fn next(&mut self) -> Option<Result<RoomEvent, Error>> {
        self.events.recv().await
    }

    /// Sends one value as JSON to all other peers, once the seat is taken. Messages are not acknowledged.
    pub async fn send<T: Serialize + ?Sized>(&self, data: &T) -> Result<(), Error> {
        self.frame(format!(r#"{{"type":"message","data":{}}}"#, json::write(data)?)).await
    }

    /// Ends the room for all peers.
    pub async fn end(self) -> Result<(), Error> {
        self.frame(r#"{"type":"end"}"#.to_owned()).await?;
        self.leave().await;
        Ok(())
    }

    /// Sends the queued messages and gives the seat up. Without a connection they are dropped.
    pub async fn leave(self) {
        drop(self.events);
        self.frames.closed().await;
    }

    fn start(gateway: Gateway, token: TokenSource, path: String, first_frame: String) -> Self {
        let (frames, queue) = mpsc::channel(MESSAGE_QUEUE);
        let (sender, events) = mpsc::channel(EVENT_BUFFER);
        tokio::spawn(RoomTask::new(gateway, token, path, queue, sender).run(first_frame));
        Self { frames, events }
    }

    async fn frame(&self, frame: String) -> Result<(), Error> {
        self.frames.send(frame).await.map_err(|_| Error::closed())
    }
}

impl Stream for Room {
    type Item = Result<RoomEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context)
    }
}
