//! `POST /api/v1/event/{topic}` with Basic credentials (RFC 7617).
//!
//! Its clients read only the status, and treat all but 204 and 401 as a failure.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderValue, StatusCode, header};
use warp::Reply;
use warp::reply::Response;
use zeroize::Zeroizing;

use crate::auth::publisher::Publisher;
use crate::broker::Now;
use crate::protocol::json::check_json;
use crate::protocol::{ChannelName, ErrorCode, Payload, Refusal};
use crate::transport::endpoints;
use crate::transport::http::problem;
use crate::transport::http::request::{RequestBody, RequestContext};
use crate::transport::publish::{check_channel, message, read_body};
use crate::transport::state::AppState;

/// Bytes of a body where the channel has no limit of its own, as in the older system.
const DEFAULT_MAX_BODY_BYTES: usize = 262_144;

pub async fn handle(app: Arc<AppState>, call: RequestContext, body: impl RequestBody) -> Response {
    match publish(&app, &call, body).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => answer(&refusal),
    }
}

/// Path, method and content type are checked before the credentials, as in the older system.
async fn publish(app: &AppState, call: &RequestContext, body: impl RequestBody) -> Result<(), Refusal> {
    let topic = call.path().strip_prefix("/api/v1/event/").ok_or(ErrorCode::NotFound)?;
    if call.method() != "POST" {
        return Err(ErrorCode::MethodNotAllowed.into());
    }
    if call.header(header::CONTENT_TYPE) != Some("application/json") {
        return Err(ErrorCode::NotFound.into());
    }
    let publisher = authenticate(app, call).await?;
    let topic = percent_encoding::percent_decode_str(topic)
        .decode_utf8()
        .map_err(|_| Refusal::new(ErrorCode::ChannelInvalid, "the topic is not UTF-8"))?;
    let channel = ChannelName::from_topic(&topic)
        .map_err(|_| Refusal::new(ErrorCode::ChannelInvalid, "the topic is too long"))?;
    check_channel(&publisher, &channel)?;
    let listed = call.peer().listener.channels.as_ref();
    if listed.is_some_and(|listed| !listed.iter().any(|pattern| pattern.matches(&channel))) {
        return Err(ErrorCode::ChannelForbidden.into());
    }
    let max_bytes = match app.policy.rules().load().of(&channel).limits.max_message_bytes {
        0 => DEFAULT_MAX_BODY_BYTES,
        max => usize::try_from(max).unwrap_or(usize::MAX),
    };
    let body = read_body(app, body, max_bytes).await?;
    let json = check_json(&body)?;
    // The body may have taken minutes, and the password may have been removed meanwhile.
    let publisher = app.policy.whitelist().renew_user(&publisher, Now::read().unix())?;
    check_channel(&publisher, &channel)?;
    message::append_and_wait(app, &publisher, &channel, Payload::Json(json)).await?;
    Ok(())
}

async fn authenticate(app: &AppState, call: &RequestContext) -> Result<Arc<Publisher>, Refusal> {
    let (username, password) = credentials(call).ok_or(ErrorCode::Unauthenticated)?;
    let address = call.client().map(|client| client.limit_key());
    let publisher = app.passwords.verify(&app.policy.whitelist(), address, &username, password).await?;
    publisher.check_not_after(Now::read().unix())?;
    Ok(publisher)
}

/// The older system accepts the scheme only in this spelling.
fn credentials(call: &RequestContext) -> Option<(String, Zeroizing<String>)> {
    let encoded = call.header(header::AUTHORIZATION)?.strip_prefix("Basic ")?;
    let decoded = Zeroizing::new(BASE64.decode(encoded).ok()?);
    let (username, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((username.to_owned(), Zeroizing::new(password.to_owned())))
}

/// The status of a refusal, with the older system's text.
fn answer(refusal: &Refusal) -> Response {
    let mut response = problem::response(refusal);
    let text = match response.status() {
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::PAYLOAD_TOO_LARGE => "A payload reached size limit.",
        StatusCode::NOT_FOUND => "",
        StatusCode::METHOD_NOT_ALLOWED => {
            problem::add_allow(response.headers_mut(), &endpoints::FLOCK_EVENT);
            ""
        }
        _ => &refusal.detail,
    };
    *response.body_mut() = text.to_owned().into();
    let headers = response.headers_mut();
    headers.remove(header::WWW_AUTHENTICATE);
    headers.remove(header::CONTENT_TYPE);
    if !text.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    response
}
