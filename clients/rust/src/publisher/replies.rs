//! What subscribers reply to a publisher's messages, and its answers.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use super::link::{Command, Handle, Request};
use super::reply_frame::ReplyFrame;
use crate::error::Error;
use crate::json;
use crate::principal::Principal;

/// Replies that wait to be taken. More of them come again later.
const REPLY_BUFFER: usize = 256;

/// A stream of replies; it ends when the connection cannot be had any more.
#[derive(Debug)]
pub struct Replies {
    handle: Handle,
    received: mpsc::Receiver<ReplyFrame>,
}

/// What one subscriber said to one message. The gateway may bring the same one twice, see [`Reply::id`].
#[derive(Debug)]
pub struct Reply {
    handle: Handle,
    frame: ReplyFrame,
}

impl Replies {
    pub(super) async fn open(handle: Handle) -> Result<Self, Error> {
        let (sender, received) = mpsc::channel(REPLY_BUFFER);
        let (done, answer) = oneshot::channel();
        handle.command(Command::Replies(sender, done)).await?;
        answer.await.unwrap_or_else(|_| Err(handle.end_error()))?;
        Ok(Self { handle, received })
    }

    /// The next reply; `None` at the end.
    pub async fn next(&mut self) -> Option<Reply> {
        let frame = self.received.recv().await?;
        Some(Reply { handle: self.handle.clone(), frame })
    }
}

impl Stream for Replies {
    type Item = Reply;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Reply>> {
        let received = self.received.poll_recv(context);
        received.map(|frame| frame.map(|frame| Reply { handle: self.handle.clone(), frame }))
    }
}

impl Reply {
    /// The same for the same reply, however often it comes.
    pub fn id(&self) -> &str {
        &self.frame.id
    }

    /// The channel.
    pub fn channel(&self) -> &str {
        &self.frame.channel
    }

    /// The `message_id` of the message that it replies to.
    pub fn to(&self) -> &str {
        &self.frame.to
    }

    /// When the gateway took it: RFC 3339.
    pub fn time(&self) -> &str {
        &self.frame.time
    }

    /// Names the subscriber's connection.
    pub fn connection(&self) -> &str {
        &self.frame.connection
    }

    /// Who replied; `None` for a subscriber without a token.
    pub fn principal(&self) -> Option<&Principal> {
        self.frame.principal.as_ref()
    }

    /// Reads what was said.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        json::read(self.frame.data.get())
    }

    /// What was said, byte for byte.
    pub fn data(&self) -> &RawValue {
        &self.frame.data
    }

    /// Says that it is here: the subscriber's `reply` is done then. Done once it is sent.
    pub async fn received(&self) -> Result<(), Error> {
        let (request, answer) = Request::new("received", self.reply_member()?);
        self.handle.request(request).await?;
        answer.await.unwrap_or_else(|_| Err(self.handle.end_error())).map(drop)
    }

    /// Answers the one who replied, which says `received` as well. Done once the answer is on its way to the
    /// subscriber; `reply_unknown` if it listens no more.
    pub async fn answer<T: Serialize + ?Sized>(&self, data: &T) -> Result<(), Error> {
        let members = format!(r#"{},"data":{}"#, self.reply_member()?, json::write(data)?);
        let (request, answer) = Request::new("answer", members);
        self.handle.request(request).await?;
        answer.await.unwrap_or_else(|_| Err(self.handle.end_error())).map(drop)
    }

    fn reply_member(&self) -> Result<String, Error> {
        Ok(format!(r#""reply":{}"#, json::write(&self.frame.id)?))
    }
}
