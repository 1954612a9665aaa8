//! The role `publish`: signed requests that publish messages and manage channels.

pub mod channel;
pub mod idempotency;
pub mod message;
mod ordered_answers;
mod receipt;
pub mod stream;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::http::request::{RequestBody, RequestContext};
use super::state::AppState;
use crate::auth::publisher::{MAX_SKEW_SECS, Publisher};
use crate::broker::Now;
use crate::protocol::{ChannelName, ErrorCode, Refusal};

/// After this time the signature of the request is stale anyway.
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(2 * MAX_SKEW_SECS);

/// A request with a valid signature, digest and nonce.
pub struct Signed {
    pub publisher: Arc<Publisher>,
    pub body: Bytes,
}

impl Signed {
    /// The publisher with this request's key now. For handlers that have waited since [`authenticate`].
    pub fn renewed(&self, app: &AppState) -> Result<Arc<Publisher>, Refusal> {
        app.policy.whitelist().renew(&self.publisher, Now::read().unix())
    }
}

/// Authenticates a request and reads its body, of at most `max_bytes`.
///
/// The signature is checked before the body is read, so that strangers cannot make the gateway buffer bodies. The key
/// is looked up again afterwards: it may have been removed meanwhile.
/// The nonce is used up last, so that a request whose body does not arrive can be repeated.
pub async fn authenticate(
    app: &AppState,
    call: &RequestContext,
    body: impl RequestBody,
    max_bytes: usize,
) -> Result<Signed, Refusal> {
    let path = call.public_path();
    let head = call.signed_head(&path);
    let verified = app.policy.whitelist().verify(&head, call.has_body(), Now::read().unix())?;
    let body = read_body(app, body, max_bytes).await?;
    let (created, key) = (verified.created(), verified.publisher().fingerprint());
    let nonce = key.map(|key| (format!("nonce:{}", verified.nonce_name(&key)), key.to_string()));
    let publisher = verified.accept(&app.policy.whitelist(), &body, Now::read().unix())?;
    // This process has not seen the nonce; another node or an earlier process may have.
    if let Some((name, key)) = nonce
        && !app.engine.shared_store().use_nonce(&name, &key, created).await?
    {
        return Err(ErrorCode::SignatureReplayed.into());
    }
    let mut signed = Signed { publisher, body };
    // The shared store may have taken its time.
    signed.publisher = signed.renewed(app)?;
    Ok(signed)
}

/// Reads the body of a request, of at most `max_bytes`, within a time limit.
pub async fn read_body(app: &AppState, body: impl RequestBody, max_bytes: usize) -> Result<Bytes, Refusal> {
    let reading = timeout(BODY_READ_TIMEOUT, read(body, max_bytes, app.limits.handshake));
    reading.await.unwrap_or_else(|_| Err(too_slow()))
}

async fn read(body: impl RequestBody, max_bytes: usize, max_silence: Duration) -> Result<Bytes, Refusal> {
    let mut body = std::pin::pin!(body);
    let mut whole = BytesMut::new();
    while let Some(chunk) = timeout(max_silence, body.next()).await.map_err(|_| too_slow())? {
        let mut chunk = chunk.map_err(|_| Refusal::new(ErrorCode::Malformed, "the body ends too early"))?;
        if whole.len() + chunk.remaining() > max_bytes {
            return Err(Refusal::new(
                ErrorCode::MessageTooLarge,
                format!("the body may have at most {max_bytes} bytes"),
            ));
        }
        whole.extend_from_slice(&chunk.copy_to_bytes(chunk.remaining()));
    }
    Ok(whole.freeze())
}

fn too_slow() -> Refusal {
    Refusal::new(ErrorCode::Malformed, "the body is incomplete (timeout)")
}

/// Refuses a channel that the publisher's key does not allow.
pub fn check_channel(publisher: &Publisher, channel: &ChannelName) -> Result<(), Refusal> {
    if publisher.may_use(channel) { Ok(()) } else { Err(ErrorCode::ChannelForbidden.into()) }
}
