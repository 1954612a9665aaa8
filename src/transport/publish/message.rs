//! `POST /v1/channels/{channel}/messages`: one publication, or many as NDJSON under one signature.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http::header;
use serde_json::json;
use warp::Reply;

use super::idempotency::{self, Found};
use super::{authenticate, check_channel};
use crate::auth::publisher::Publisher;
use crate::broker::Now;
use crate::broker::fanout::Congestion;
use crate::protocol::publication::check_json;
use crate::protocol::{ChannelName, Code, Payload, Position, Refusal};
use crate::transport::app::App;
use crate::transport::call::{Call, channel_in};
use crate::transport::{fanout, problem};

const NDJSON: &str = "application/x-ndjson";

/// What a publisher is answered, and where it ought to wait.
struct Published {
    answer: Bytes,
    congestion: Option<Congestion>,
}

pub async fn post(
    app: Arc<App>,
    call: Call,
    segment: String,
    body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
) -> Result<warp::reply::Response, Refusal> {
    let channel = channel_in(&segment)?;
    let content_type = call.header(header::CONTENT_TYPE).unwrap_or("").to_ascii_lowercase();
    let media_type = content_type.split(';').next().unwrap_or("").trim();
    let max_message = app.policy.rules().load().of(&channel).limits.max_message_bytes;
    let max_body = match usize::try_from(max_message) {
        Ok(max @ 1..) if media_type != NDJSON => max,
        _ => app.limits.max_batch_bytes,
    };
    let signed = authenticate(&app, &call, body, max_body).await?;
    check_channel(&signed.publisher, &channel)?;
    let publish = || match media_type {
        NDJSON => publish_lines(&app, &signed.publisher, &channel, &signed.body),
        _ => publish_one(&app, &signed.publisher, &channel, media_type, &signed.body),
    };
    let published = match call.header(idempotency::HEADER) {
        None => publish()?,
        Some(key) => {
            let store = app.idempotency.of(signed.publisher.fingerprint());
            // Held over the publication, so that the same key twice at once publishes once.
            let mut store = store.lock();
            let request = [channel.as_str().as_bytes(), content_type.as_bytes(), &signed.body];
            match store.find(key, &request, Now::read().steady)? {
                Found::Answer(answer) => Published { answer, congestion: None },
                Found::New(entry) => {
                    let published = publish()?;
                    store.insert(entry, published.answer.clone(), Now::read().steady);
                    published
                }
            }
        }
    };
    if let Some(congestion) = published.congestion {
        congestion.relieved().await;
    }
    let answer = warp::reply::Response::new(published.answer.into());
    Ok(warp::reply::with_header(answer, header::CONTENT_TYPE, "application/json").into_response())
}

fn publish_one(
    app: &App,
    publisher: &Publisher,
    channel: &ChannelName,
    media_type: &str,
    body: &[u8],
) -> Result<Published, Refusal> {
    let payload = match media_type {
        "" => return Err(Refusal::new(Code::UnsupportedMediaType, "a Content-Type is needed")),
        "application/json" => Payload::Json(check_json(body)?),
        text if text.starts_with("text/") => Payload::Text(
            std::str::from_utf8(body).map_err(|_| Refusal::new(Code::Malformed, "the text is not UTF-8"))?,
        ),
        _ => Payload::Binary(body),
    };
    let (position, congestion) = append(app, publisher, channel, payload)?;
    Ok(Published { answer: described(channel, &position).to_string().into(), congestion })
}

/// Every line is checked before the first is published. What the channel refuses after that (a limit) stands in
/// the answer at the line's place.
fn publish_lines(app: &App, publisher: &Publisher, channel: &ChannelName, body: &[u8]) -> Result<Published, Refusal> {
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let mut payloads = Vec::new();
    for line in lines {
        if payloads.len() == app.limits.max_batch_messages {
            let detail = format!("a batch may have at most {} messages", app.limits.max_batch_messages);
            return Err(Refusal::new(Code::MessageTooLarge, detail));
        }
        let json = check_json(line).map_err(|refusal| {
            Refusal::new(refusal.code, format!("message {}: {}", payloads.len() + 1, refusal.detail))
        })?;
        payloads.push(json);
    }
    if payloads.is_empty() {
        return Err(Refusal::new(Code::Malformed, "the batch is empty"));
    }
    let mut answers = Vec::with_capacity(payloads.len());
    let mut congestion = None;
    for json in payloads {
        match append(app, publisher, channel, Payload::Json(json)) {
            Ok((position, congested)) => {
                congestion = congestion.or(congested);
                answers.push(described(channel, &position));
            }
            // Nothing was published yet, so the whole request is refused.
            Err(refusal) if answers.is_empty() => return Err(refusal),
            Err(refusal) => answers.push(problem::body(&refusal)),
        }
    }
    Ok(Published { answer: serde_json::Value::from(answers).to_string().into(), congestion })
}

fn append(
    app: &App,
    publisher: &Publisher,
    channel: &ChannelName,
    payload: Payload<'_>,
) -> Result<(Position, Option<Congestion>), Refusal> {
    let now = Now::read();
    publisher.check_rate(now.steady)?;
    let accepted = app.engine.append(channel, publisher.name(), payload, now)?;
    Ok((accepted.position, fanout::run(accepted.walks)))
}

fn described(channel: &ChannelName, position: &Position) -> serde_json::Value {
    json!({
        "channel": channel.as_str(),
        "id": position.message_id(),
        "offset": position.offset,
        "epoch": &*position.epoch,
    })
}
