//! Replies of subscribers, and the publisher's answers to them.

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

/// Replies in the buffer. The gateway sends those that do not fit again later.
const REPLY_BUFFER: usize = 256;

/// A stream of replies. It ends when reconnecting fails for good.
#[derive(Debug)]
pub struct Replies {
    handle: Handle,
    received: mpsc::Receiver<ReplyFrame>,
}

/// A subscriber's reply to one message. It can arrive twice with the same [`Reply::id`].
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

    /// Returns the next reply; `None` at the end.
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
    /// Id of the reply, equal for repeated deliveries.
    pub fn id(&self) -> &str {
        &self.frame.id
    }

    /// The channel.
    pub fn channel(&self) -> &str {
        &self.frame.channel
    }

    /// The `message_id` of the message replied to.
    pub fn to(&self) -> &str {
        &self.frame.to
    }

    /// Time of acceptance by the gateway: RFC 3339.
    pub fn time(&self) -> &str {
        &self.frame.time
    }

    /// Id of the subscriber's connection.
    pub fn connection(&self) -> &str {
        &self.frame.connection
    }

    /// The subscriber's identity; `None` without a token.
    pub fn principal(&self) -> Option<&Principal> {
        self.frame.principal.as_ref()
    }

    /// Parses the reply.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        json::read(self.frame.data.get())
    }

    /// The reply's JSON, byte for byte.
    pub fn data(&self) -> &RawValue {
        &self.frame.data
    }

    /// Confirms the reply, which completes the subscriber's `reply`. Completes once the frame is sent.
    pub async fn received(&self) -> Result<(), Error> {
        let (request, answer) = Request::new("received", self.reply_member()?);
        self.handle.request(request).await?;
        answer.await.unwrap_or_else(|_| Err(self.handle.end_error())).map(drop)
    }

    /// Answers the subscriber and confirms the reply. Completes once the gateway sent the answer; fails with
    /// `reply_unknown` if the subscriber is gone.
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
