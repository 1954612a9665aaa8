//! Publishes over signed HTTP and over a WebSocket, which also carries replies and presence events.

mod link;
mod replies;
mod reply_frame;
mod stream;
mod watch;
mod watcher;

use std::collections::VecDeque;
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

/// All characters but the unreserved ones of RFC 3986 section 2.3.
const ESCAPED_IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Limit of the response to one publication.
const MAX_RESPONSE_BYTES: usize = 16 * 1024;

/// The gateway's default of `limits.max_batch_messages`.
const MAX_BATCH_MESSAGES: usize = 1000;

/// The gateway's default of `limits.max_batch_bytes`.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// A publisher's client. Clones share their connections.
#[derive(Clone)]
pub struct Publisher {
    http: Arc<Http>,
    /// The WebSocket of `replies` and `watch`, while one of them is in use.
    shared: Arc<Mutex<Option<WeakHandle>>>,
}

/// Options of a publication over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The gateway publishes a request with the same key once. Default: a random key, which covers retries. Set one to
    /// cover restarts of your program too.
    pub idempotency_key: Option<String>,
    /// Default: `application/json`. `text/*` arrives as a string, other types as bytes.
    pub content_type: Option<String>,
}

impl Publisher {
    /// Creates a publisher that connects on first use. `gateway` is a URL or a [`Gateway`].
    pub fn connect<G>(gateway: G, key: Key) -> Result<Self, Error>
    where
        G: TryInto<Gateway>,
        Error: From<G::Error>,
    {
        Ok(Self { http: Arc::new(Http::new(gateway.try_into()?, key)), shared: Arc::default() })
    }

    /// Publishes one value as JSON and returns its position. Retries broken connections and temporary refusals for
    /// [`Gateway::with_retries_for`] without publishing twice.
    pub async fn publish<T: Serialize + ?Sized>(&self, channel: &str, data: &T) -> Result<Published, Error> {
        self.publish_with(channel, json::write(data)?, Options::default()).await
    }

    /// Publishes one body byte for byte.
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

    /// Publishes many values to one channel in order, in batches that the gateway accepts. Each value has its own
    /// result, because a limit can refuse some of them. If a later batch fails, its error is returned, and earlier ones
    /// are published.
    pub async fn publish_many<T: Serialize>(
        &self,
        channel: &str,
        data: impl IntoIterator<Item = T>,
    ) -> Result<Vec<Result<Published, Error>>, Error> {
        let lines: Result<Vec<String>, Error> = data.into_iter().map(|data| json::write(&data)).collect();
        let lines = lines?;
        let mut results = Vec::with_capacity(lines.len());
        let mut batches = batches(&lines);
        while let Some(batch) = batches.pop_front() {
            match self.publish_batch(channel, batch).await {
                // The gateway's limits are lower than the default ones.
                Err(error) if error.code == "message_too_large" && batch.len() > 1 => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    batches.push_front(second);
                    batches.push_front(first);
                }
                published => results.extend(published?),
            }
        }
        Ok(results)
    }

    async fn publish_batch(&self, channel: &str, lines: &[String]) -> Result<Vec<Result<Published, Error>>, Error> {
        let max_response = MAX_RESPONSE_BYTES.saturating_mul(lines.len());
        let answer = self.post(channel, "application/x-ndjson", lines.join("\n").into(), None, max_response).await?;
        let answers: Vec<Line> = serde_json::from_slice(&answer).map_err(|_| Error::unexpected())?;
        if answers.len() != lines.len() {
            return Err(Error::unexpected());
        }
        Ok(answers.into_iter().map(Result::from).collect())
    }

    /// Opens a WebSocket for publications with a window of unacknowledged ones.
    pub async fn stream(&self, options: StreamOptions) -> Result<PublishStream, Error> {
        let handle = Handle::open(self.http.gateway.clone(), self.http.key.clone());
        handle.ready().await?;
        Ok(PublishStream::new(handle, &options))
    }

    /// Receives replies to this key's messages in channels with `replies = true`. The gateway sends each reply to one
    /// of the publisher's connections, and to another one if it is not confirmed within 5 s.
    pub async fn replies(&self) -> Result<Replies, Error> {
        Replies::open(self.shared()).await
    }

    /// Presence events of one channel.
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

/// Divides lines into batches within the gateway's default limits.
fn batches(mut lines: &[String]) -> VecDeque<&[String]> {
    let mut batches = VecDeque::new();
    while !lines.is_empty() {
        let mut bytes = 0;
        let fits = |line: &&String| {
            bytes += line.len() + 1;
            bytes <= MAX_BATCH_BYTES
        };
        let count = lines.iter().take(MAX_BATCH_MESSAGES).take_while(fits).count().max(1);
        let (batch, rest) = lines.split_at(count);
        batches.push_back(batch);
        lines = rest;
    }
    batches
}

/// The gateway's response to one publication.
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

/// One element of the response to a batch.
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
