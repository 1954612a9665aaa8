//! Publications over a WebSocket: many on their way, each acknowledged.

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

/// How a stream publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// How many publications may be on their way, unacknowledged; [`PublishStream::publish`] waits when there are so many.
    pub window: usize,
    /// What becomes of publications that were on their way when the connection broke. `false`, if not said: their
    /// acknowledgements fail with `connection_lost`, and nobody knows whether they were published. `true`: they are sent
    /// again, and some may be published twice. [`crate::Publisher::publish`] publishes once.
    pub resend: bool,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { window: 256, resend: false }
    }
}

/// Publishes over one WebSocket, which connects again when it breaks. When it is dropped, what is on its way is still
/// sent.
#[derive(Debug)]
pub struct PublishStream {
    handle: Handle,
    window: Arc<Semaphore>,
    size: u32,
    resend: bool,
}

/// The place of a publication of a stream, or why it has none. Need not be waited for.
#[derive(Debug)]
pub struct Acknowledgement(oneshot::Receiver<Result<Frame, Error>>);

impl PublishStream {
    pub(super) fn new(handle: Handle, options: &StreamOptions) -> Self {
        let size = u32::try_from(options.window.max(1)).unwrap_or(u32::MAX).min(Semaphore::MAX_PERMITS as u32);
        Self { handle, window: Arc::new(Semaphore::new(size as usize)), size, resend: options.resend }
    }

    /// Hands one value over as JSON, once there is room in the window.
    pub async fn publish<T: Serialize + ?Sized>(&self, channel: &str, data: &T) -> Result<Acknowledgement, Error> {
        self.send(channel, &json::write(data)?, "").await
    }

    /// Hands bytes over, once there is room in the window.
    pub async fn publish_bytes(&self, channel: &str, bytes: impl Into<Bytes>) -> Result<Acknowledgement, Error> {
        use base64::Engine;
        let encoded = base64::engine::general_purpose::STANDARD.encode(bytes.into());
        self.send(channel, &json::write(&encoded)?, r#","encoding":"base64""#).await
    }

    /// Waits until everything that was handed over is acknowledged or refused.
    pub async fn flush(&self) -> Result<(), Error> {
        // The whole window is free then.
        self.window.acquire_many(self.size).await.map(drop).map_err(|_| Error::closed())
    }

    /// The same, and then ends the connection.
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
