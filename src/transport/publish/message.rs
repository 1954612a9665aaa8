//! `POST /v1/channels/{channel}/messages`: one publication, or many as NDJSON under one signature.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use warp::Reply;
use warp::reply::Response;

use super::idempotency;
use super::receipt::Receipt;
use super::{Signed, authenticate, check_channel};
use crate::auth::publisher::Publisher;
use crate::broker::Now;
use crate::broker::channel::delivery::Deliveries;
use crate::broker::engine::{Appended, Stored, stored};
use crate::protocol::json::check_json;
use crate::protocol::{ChannelName, ErrorCode, Payload, Position, Refusal};
use crate::transport::endpoints;
use crate::transport::http::request::{RequestBody, RequestContext, channel_in};
use crate::transport::state::AppState;

const NDJSON: &str = "application/x-ndjson";

pub async fn post(app: Arc<AppState>, call: RequestContext, body: impl RequestBody) -> Result<Response, Refusal> {
    let channel = channel_in(endpoints::MESSAGES.parameter(call.path()))?;
    let content_type = call.header(header::CONTENT_TYPE).unwrap_or("").to_ascii_lowercase();
    let media_type = content_type.split(';').next().unwrap_or("").trim();
    let max_message = app.policy.rules().load().of(&channel).limits.max_message_bytes;
    let max_body = match usize::try_from(max_message) {
        Ok(max @ 1..) if media_type != NDJSON => max,
        _ => app.limits.max_batch_bytes,
    };
    let signed = authenticate(&app, &call, body, max_body).await?;
    check_channel(&signed.publisher, &channel)?;
    let Some(key) = call.header(idempotency::HEADER) else {
        let receipt = publish(&app, &signed, &channel, media_type).await?;
        return Ok(json(receipt.response(&channel, media_type == NDJSON)));
    };
    let request = [channel.as_str().as_bytes(), content_type.as_bytes(), &signed.body];
    let owner = signed.publisher.fingerprint().ok_or(ErrorCode::KeyUnknown)?;
    let slot = app.idempotency.slot(owner, key, &request, Now::read().monotonic)?;
    let media_type = media_type.to_owned();
    // A task of its own, so that the answer is kept for a retry even if the publisher disconnects.
    let publishing = tokio::spawn(async move {
        let publishing = async { Ok(publish(&app, &signed, &channel, &media_type).await?.encode()) };
        let kept = app.idempotency.once(&slot, app.engine.shared_store(), publishing).await?;
        // Nodes of an earlier version kept the whole response.
        let response = Receipt::decode(&kept).map(|receipt| receipt.response(&channel, media_type == NDJSON));
        Ok(response.unwrap_or(kept))
    });
    publishing.await.unwrap_or_else(|_| Err(ErrorCode::Internal.into())).map(json)
}

fn json(body: Bytes) -> Response {
    let answer = Response::new(body.into());
    warp::reply::with_header(answer, header::CONTENT_TYPE, "application/json").into_response()
}

/// Publishes the body.
async fn publish(app: &AppState, signed: &Signed, channel: &ChannelName, media_type: &str) -> Result<Receipt, Refusal> {
    // A retry may have waited for the first request.
    let publisher = signed.renewed(app)?;
    check_channel(&publisher, channel)?;
    match media_type {
        NDJSON => publish_lines(app, &publisher, channel, &signed.body).await,
        _ => publish_one(app, &publisher, channel, media_type, &signed.body).await,
    }
}

async fn publish_one(
    app: &AppState,
    publisher: &Publisher,
    channel: &ChannelName,
    media_type: &str,
    body: &[u8],
) -> Result<Receipt, Refusal> {
    let payload = match media_type {
        "" => return Err(Refusal::new(ErrorCode::UnsupportedMediaType, "Content-Type is missing")),
        "application/json" => Payload::Json(check_json(body)?),
        text if text.starts_with("text/") => Payload::Text(
            std::str::from_utf8(body).map_err(|_| Refusal::new(ErrorCode::Malformed, "the text is not UTF-8"))?,
        ),
        _ => Payload::Binary(body),
    };
    let mut receipt = Receipt::default();
    receipt.accept(append_and_wait(app, publisher, channel, payload).await?);
    Ok(receipt)
}

/// Checks every line before it publishes the first. A later refusal, for instance of a limit, is returned in the
/// answer in place of that line's position.
async fn publish_lines(
    app: &AppState,
    publisher: &Publisher,
    channel: &ChannelName,
    body: &[u8],
) -> Result<Receipt, Refusal> {
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let mut payloads = Vec::new();
    for line in lines {
        if payloads.len() == app.limits.max_batch_messages {
            let detail = format!("a batch may have at most {} messages", app.limits.max_batch_messages);
            return Err(Refusal::new(ErrorCode::MessageTooLarge, detail));
        }
        let json = check_json(line).map_err(|refusal| {
            Refusal::new(refusal.code, format!("message {}: {}", payloads.len() + 1, refusal.detail))
        })?;
        payloads.push(json);
    }
    if payloads.is_empty() {
        return Err(Refusal::new(ErrorCode::Malformed, "the batch is empty"));
    }
    // All are appended before the first is awaited.
    let mut deliveries = Deliveries::default();
    let mut appended = Vec::with_capacity(payloads.len());
    for json in payloads {
        match append(app, publisher, channel, Payload::Json(json)) {
            // Nothing was published yet, so the whole request is refused.
            Err(refusal) if appended.is_empty() => return Err(refusal),
            Ok(Appended::Done(mut accepted)) => {
                deliveries.add(std::mem::take(&mut accepted.deliveries));
                appended.push(Ok(Appended::Done(accepted)));
            }
            result => appended.push(result),
        }
    }
    if let Some(backpressure) = deliveries.run() {
        backpressure.wait().await;
    }
    let mut receipt = Receipt::default();
    for one in appended {
        let position = match one {
            Ok(appended) => position_of(appended).await,
            Err(refusal) => Err(refusal),
        };
        match position {
            Ok(position) => receipt.accept(position),
            Err(refusal) if receipt.is_empty() => return Err(refusal),
            Err(refusal) => receipt.refuse(&refusal),
        }
    }
    Ok(receipt)
}

/// Appends one payload, counted against the publisher's rate.
fn append(
    app: &AppState,
    publisher: &Publisher,
    channel: &ChannelName,
    payload: Payload<'_>,
) -> Result<Appended, Refusal> {
    let now = Now::read();
    publisher.check_rate(now.monotonic)?;
    app.engine.append(channel, publisher.name(), payload, now)
}

/// Publishes one payload. Returns its position once it is stored and subscribers are not too far behind.
pub async fn append_and_wait(
    app: &AppState,
    publisher: &Publisher,
    channel: &ChannelName,
    payload: Payload<'_>,
) -> Result<Position, Refusal> {
    position_of(append(app, publisher, channel, payload)?).await
}

async fn position_of(appended: Appended) -> Result<Position, Refusal> {
    let Stored { position, backpressure } = match appended {
        Appended::Done(accepted) => Stored { position: accepted.position, backpressure: accepted.deliveries.run() },
        Appended::Pending(answer) => stored(answer).await?,
    };
    if let Some(backpressure) = backpressure {
        backpressure.wait().await;
    }
    Ok(position)
}
