//! `PUT`, `GET` and `DELETE /v1/channels/{channel}`.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use warp::Reply;
use warp::reply::Response;

use super::{authenticate, check_channel};
use crate::broker::engine::Created;
use crate::broker::{ChannelLimits, Now};
use crate::protocol::{ChannelName, ErrorCode, Refusal};
use crate::transport::endpoints;
use crate::transport::http::request::{RequestBody, RequestContext, channel_in};
use crate::transport::state::AppState;

const MAX_BODY_BYTES: usize = 4096;

/// The body of `PUT`: limits of the channel. Omitted ones stay as configured.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Declared {
    max_connections: Option<u64>,
    max_messages: Option<u64>,
    max_data_bytes: Option<u64>,
    max_message_bytes: Option<u64>,
    lifespan_secs: Option<u64>,
}

impl Declared {
    fn over(self, configured: &ChannelLimits) -> ChannelLimits {
        let Self { max_connections, max_messages, max_data_bytes, max_message_bytes, lifespan_secs } = self;
        ChannelLimits {
            max_connections: max_connections.unwrap_or(configured.max_connections),
            max_messages: max_messages.unwrap_or(configured.max_messages),
            max_data_bytes: max_data_bytes.unwrap_or(configured.max_data_bytes),
            max_message_bytes: max_message_bytes.unwrap_or(configured.max_message_bytes),
            lifespan: lifespan_secs.map_or(configured.lifespan, Duration::from_secs),
        }
    }
}

pub async fn handle(app: Arc<AppState>, call: RequestContext, body: impl RequestBody) -> Result<Response, Refusal> {
    let channel = channel_in(endpoints::CHANNEL.parameter(call.path()))?;
    let signed = authenticate(&app, &call, body, MAX_BODY_BYTES).await?;
    check_channel(&signed.publisher, &channel)?;
    match call.method() {
        "PUT" => declare(&app, &channel, &signed.body).await,
        "DELETE" if app.engine.close(&channel).await? => Ok(StatusCode::NO_CONTENT.into_response()),
        "DELETE" => Err(ErrorCode::ChannelUnknown.into()),
        _ => describe(&app, &channel).await,
    }
}

async fn declare(app: &AppState, channel: &ChannelName, body: &[u8]) -> Result<Response, Refusal> {
    let declared: Declared = match body {
        [] => Declared::default(),
        // serde would also accept an array with the members in order.
        body if !body.trim_ascii_start().starts_with(b"{") => {
            return Err(Refusal::new(ErrorCode::Malformed, "limits must be an object"));
        }
        body => serde_json::from_slice(body)
            .map_err(|error| Refusal::new(ErrorCode::Malformed, format!("invalid limits: {error}")))?,
    };
    let limits = declared.over(&app.policy.rules().load().of(channel).limits);
    let status = match app.engine.create(channel, Some(limits), Now::read()).await? {
        Created::New => StatusCode::CREATED,
        Created::Again => StatusCode::OK,
    };
    Ok(warp::reply::with_status(describe(app, channel).await?, status).into_response())
}

async fn describe(app: &AppState, channel: &ChannelName) -> Result<Response, Refusal> {
    let state = app.engine.describe(channel).await?.ok_or(ErrorCode::ChannelUnknown)?;
    let ChannelLimits { max_connections, max_messages, max_data_bytes, max_message_bytes, lifespan } = state.limits;
    let body = json!({
        "channel": channel.as_str(),
        "epoch": &*state.position.epoch,
        "offset": state.position.offset,
        "messages": state.position.offset,
        "data_bytes": state.data_bytes,
        "connections": state.subscribers,
        "created": format!("{:.3}", state.created),
        "limits": {
            "max_connections": max_connections,
            "max_messages": max_messages,
            "max_data_bytes": max_data_bytes,
            "max_message_bytes": max_message_bytes,
            "lifespan_secs": lifespan.as_secs(),
        },
    });
    Ok(warp::reply::json(&body).into_response())
}
