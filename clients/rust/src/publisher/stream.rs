//! Publishes over a WebSocket with a window of unacknowledged publications.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{Semaphore, oneshot};

use super::link::{Handle, Request};
use crate::error::Error;
use crate::frame::Frame;
use crate::json;
use crate::publication::Published;

/// Options of a publish stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Most unacknowledged publications; [`PublishStream::publish`] waits while the window is full.
    pub window: usize,
    /// Handling of unacknowledged publications after a broken connection. `false` (default): they fail with
    /// `connection_lost` and their outcome is unknown. `true`: they are sent again, possibly twice.
    /// [`crate::Publisher::publish`] never publishes twice.
    pub resend: bool,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { window: 256, resend: false }
    }
}

/// Publishes over one WebSocket that reconnects. Pending publications are still sent after a drop.
#[derive(Debug)]
pub struct PublishStream {
    handle: Handle,
    window: Arc<Semaphore>,
    size: u32,
    resend: bool,
}

/// Future of a publication's position or refusal. It need not be awaited.
#[derive(Debug)]
pub struct Acknowledgement(oneshot::Receiver<Result<Frame, Error>>);

impl PublishStream {
    pub(super) fn new(handle: Handle, options: &StreamOptions) -> Self {
        let size = u32::try_from(options.window.max(1)).unwrap_or(u32::MAX).min(Semaphore::MAX_PERMITS as u32);
        Self { handle, window: Arc::new(Semaphore::new(size as usize)), size, resend: options.resend }
    }

    /// Queues one value as JSON once the window has space.
    pub async fn publish<T: Serialize + ?Sized>(&self, channel: &str, data: &T) -> Result<Acknowledgement, Error> {
        self.send(channel, &json::write(data)?, "").await
    }

    /// Queues bytes once the window has space.
    pub async fn publish_bytes(&self, channel: &str, bytes: impl Into<Bytes>) -> Result<Acknowledgement, Error> {
        use base64::Engine;
        let encoded = base64::engine::general_purpose::STANDARD.encode(bytes.into());
        self.send(channel, &json::write(&encoded)?, r#","encoding":"base64""#).await
    }

    /// Waits until all publications are acknowledged or refused.
    pub async fn flush(&self) -> Result<(), Error> {
        // The whole window is free once every publication has its result.
        self.window.acquire_many(self.size).await.map(drop).map_err(|_| Error::closed())
    }

    /// Flushes, then closes the connection.
    pub async fn close(self) -> Result<(), Error> {
        self.flush().await
    }

    async fn send(&self, channel: &str, json: &str, extra_members: &str) -> Result<Acknowledgement, Error> {
        let window_permit = self.window.clone().acquire_owned().await.map_err(|_| Error::closed())?;
        let members = format!(r#""channel":{},"data":{json}{extra_members}"#, json::write(channel)?);
        let (mut request, answer) = Request::new("publish", members);
        request.resend = self.resend;
        request.window_permit = Some(window_permit);
        self.handle.request(request).await?;
        Ok(Acknowledgement(answer))
    }
}

impl Future for Acknowledgement {
    type Output = Result<Published, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.0).poll(context)).unwrap_or_else(|_| Err(Error::closed()));
        Poll::Ready(answer.and_then(|frame| frame.published().ok_or_else(Error::unexpected)))
    }
}
