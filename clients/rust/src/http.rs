//! Signed HTTP/1.1 requests over a small pool of kept connections.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep, timeout};

use crate::error::Error;
use crate::gateway::Gateway;
use crate::key::Key;
use crate::signature;

/// Longest wait for one response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// Connections in the pool.
const MAX_IDLE_CONNECTIONS: usize = 8;

pub(crate) struct Http {
    pub gateway: Gateway,
    pub key: Key,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// A request with a body. Its idempotency key makes it safe to send again.
pub(crate) struct Post<'a> {
    /// Relative to the gateway's path prefix.
    pub path: &'a str,
    pub content_type: &'a str,
    pub body: Bytes,
    pub idempotency_key: &'a str,
    /// Largest response body, in bytes.
    pub max_response: usize,
}

impl Http {
    pub(crate) fn new(gateway: Gateway, key: Key) -> Self {
        Self { gateway, key, idle: Mutex::default() }
    }

    /// Retries temporary errors until `retry_for` is over. Each attempt has a new signature.
    pub(crate) async fn post(&self, post: &Post<'_>) -> Result<Bytes, Error> {
        let until = Instant::now() + self.gateway.retry_for;
        let mut backoff = self.gateway.backoff();
        loop {
            let error = match self.post_once(post).await {
                Err(error) if error.temporary => error,
                result => return result,
            };
            let wait = backoff.next(error.retry_after);
            if Instant::now() + wait >= until {
                return Err(error);
            }
            sleep(wait).await;
        }
    }

    async fn post_once(&self, post: &Post<'_>) -> Result<Bytes, Error> {
        let idle_connection = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut sender) = idle_connection
            && sender.ready().await.is_ok()
        {
            match self.send(sender, post).await {
                // The gateway closed this idle connection, so a new one is opened without a wait.
                Err(error) if error.code == "connection_lost" => {}
                result => return result,
            }
        }
        let (sender, connection) =
            handshake(TokioIo::new(self.gateway.dial().await?)).await.map_err(connection_lost)?;
        tokio::spawn(async move {
            // The pending request returns the same error.
            let _ = connection.await;
        });
        self.send(sender, post).await
    }

    async fn send(&self, mut sender: SendRequest<Full<Bytes>>, post: &Post<'_>) -> Result<Bytes, Error> {
        let sending = async {
            let answer = sender.send_request(self.request(post)?).await.map_err(connection_lost)?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, post.max_response).collect().await;
            let body = body.map_err(|_| Error::connection_lost("connection lost during the response"))?.to_bytes();
            Ok((head.status, head.headers, body))
        };
        let answered: Result<(StatusCode, HeaderMap, Bytes), Error> = timeout(RESPONSE_TIMEOUT, sending)
            .await
            .unwrap_or_else(|_| Err(Error::temporary("timeout", "no response in time")));
        let (status, headers, body) = answered?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE_CONNECTIONS {
            idle.push(sender);
        }
        if status.is_success() { Ok(body) } else { Err(Error::from_response(status, &headers, &body)) }
    }

    fn request(&self, post: &Post<'_>) -> Result<http::Request<Full<Bytes>>, Error> {
        let Self { gateway, key, .. } = self;
        let path = gateway.path(post.path);
        let mut headers = signature::Request {
            method: "POST",
            authority: gateway.authority(),
            path: &path,
            query: None,
            body: Some((post.content_type, &post.body)),
        }
        .sign(key)?;
        for (name, value) in [("host", gateway.authority()), ("idempotency-key", post.idempotency_key)] {
            let value = HeaderValue::from_str(value).map_err(|_| invalid(name))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        let request = http::Request::builder().method("POST").uri(path).body(Full::new(post.body.clone()));
        let mut request = request.map_err(|_| invalid("path"))?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

fn connection_lost(error: hyper::Error) -> Error {
    Error::connection_lost(error.to_string())
}

fn invalid(what: &str) -> Error {
    Error::new("invalid", format!("{what} cannot be sent in a header"))
}
