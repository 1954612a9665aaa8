//! Publishes with a whitelisted key: one and many over signed HTTP, streams over a WebSocket, which brings replies
//! and events as well.

mod link;
mod replies;
mod reply_frame;
mod stream;
mod watch;
mod watcher;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

pub use replies::{Replies, Reply};
pub use stream::{Acknowledgement, PublishStream, StreamOptions};
pub use watch::Watch;
pub use watcher::ChannelEvent;

use crate::error::{Error, Problem};
use crate::gateway::Gateway;
use crate::http::{Http, Post};
use crate::json;
use crate::key::Key;
use crate::publication::{Position, Published};
use crate::random;
use link::{Handle, WeakHandle};

/// What a path may hold as it is (RFC 3986 section 2.3).
const ESCAPED_IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An answer to one publication is smaller.
const MAX_RESPONSE_BYTES: usize = 16 * 1024;

/// Publishes to a gateway. Clones share their connections.
#[derive(Clone)]
pub struct Publisher {
    http: Arc<Http>,
    /// The connection of `replies` and `watch`, as long as somebody uses it.
    shared: Arc<Mutex<Option<WeakHandle>>>,
}

/// How something is published over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Names this publication: the gateway takes the same key with the same request once. A random one if not said, so
    /// that tries after a broken connection publish once. Say one to be safe over restarts of this program too.
    pub idempotency_key: Option<String>,
    /// `application/json` if not said. `text/*` arrives as a string, anything else as bytes.
    pub content_type: Option<String>,
}

impl Publisher {
    /// Connects when there is something to do. `gateway` is an URL or a [`Gateway`].
    pub fn connect<G>(gateway: G, key: Key) -> Result<Self, Error>
    where
        G: TryInto<Gateway>,
        Error: From<G::Error>,
    {
        Ok(Self { http: Arc::new(Http::new(gateway.try_into()?, key)), shared: Arc::default() })
    }

    /// Publishes one value as JSON, and waits for its place. Broken connections and temporary refusals are tried again
    /// for [`Gateway::with_retries_for`]; it is published once.
    pub async fn publish<T: Serialize + ?Sized>(&self, channel: &str, data: &T) -> Result<Published, Error> {
        self.publish_with(channel, json::write(data)?, Options::default()).await
    }

    /// Publishes one body as it is.
    pub async fn publish_with(
        &self,
        channel: &str,
        body: impl Into<Bytes>,
        options: Options,
    ) -> Result<Published, Error> {
        let content_type = options.content_type.as_deref().unwrap_or("application/json");
        let answer = self.post(channel, content_type, body.into(), options.idempotency_key, MAX_RESPONSE_BYTES).await?;
        serde_json::from_slice::<Answer>(&answer).map(Published::from).map_err(|_| Error::unexpected())
    }

    /// Publishes many values as JSON in one request, all of them to one channel and in their order. What the channel
    /// refused while others were taken (a limit) has an error at its place. The gateway takes
    /// `limits.max_batch_messages` (1000) at once.
    pub async fn publish_many<T: Serialize>(
        &self,
        channel: &str,
        data: impl IntoIterator<Item = T>,
    ) -> Result<Vec<Result<Published, Error>>, Error> {
        let lines: Result<Vec<String>, Error> = data.into_iter().map(|data| json::write(&data)).collect();
        let lines = lines?;
        if lines.is_empty() {
            return Ok(Vec::new());
        }
        let max_response = MAX_RESPONSE_BYTES.saturating_mul(lines.len());
        let answer = self.post(channel, "application/x-ndjson", lines.join("\n").into(), None, max_response).await?;
        let answers: Vec<Line> = serde_json::from_slice(&answer).map_err(|_| Error::unexpected())?;
        if answers.len() != lines.len() {
            return Err(Error::unexpected());
        }
        Ok(answers.into_iter().map(Result::from).collect())
    }

    /// Opens a WebSocket for publications, as many on their way as `options` say.
    pub async fn stream(&self, options: StreamOptions) -> Result<PublishStream, Error> {
        let handle = Handle::open(self.http.gateway.clone(), self.http.key.clone());
        handle.ready().await?;
        Ok(PublishStream::new(handle, &options))
    }

    /// What subscribers of channels with `replies = true` reply to this key's messages. Each reply goes to one of the
    /// publisher's connections, and to another one if that does not say within 5 s that it has it.
    pub async fn replies(&self) -> Result<Replies, Error> {
        Replies::open(self.shared()).await
    }

    /// Who comes and goes on a channel.
    pub async fn watch(&self, channel: &str) -> Result<Watch, Error> {
        Watch::open(self.shared(), channel).await
    }

    fn shared(&self) -> Handle {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = shared.as_ref().and_then(WeakHandle::upgrade) {
            return handle;
        }
        let handle = Handle::open(self.http.gateway.clone(), self.http.key.clone());
        *shared = Some(handle.downgrade());
        handle
    }

    async fn post(
        &self,
        channel: &str,
        content_type: &str,
        body: Bytes,
        idempotency_key: Option<String>,
        max_response: usize,
    ) -> Result<Bytes, Error> {
        let path = format!("/v1/channels/{}/messages", utf8_percent_encode(channel, ESCAPED_IN_PATH));
        let idempotency_key = match idempotency_key {
            Some(key) => key,
            None => random::token()?,
        };
        let post = Post { path: &path, content_type, body, idempotency_key: &idempotency_key, max_response };
        self.http.post(&post).await
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Publisher({:?}, {:?})", self.http.gateway, self.http.key)
    }
}

/// The gateway's answer to one publication.
#[derive(Deserialize)]
struct Answer {
    channel: String,
    id: String,
    epoch: String,
    offset: u64,
}

impl From<Answer> for Published {
    fn from(Answer { channel, id, epoch, offset }: Answer) -> Self {
        Self { channel, message_id: id, position: Position { epoch, offset } }
    }
}

/// The answer to one of many.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Published(Answer),
    Refused(Problem),
}

impl From<Line> for Result<Published, Error> {
    fn from(line: Line) -> Self {
        match line {
            Line::Published(answer) => Ok(answer.into()),
            Line::Refused(problem) => Err(problem.into()),
        }
    }
}
