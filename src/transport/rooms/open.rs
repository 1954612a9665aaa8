//! `POST /v1/rooms`: opens a native room.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use warp::Reply;
use warp::reply::Response;

use super::{authorize, reserve};
use crate::broker::Now;
use crate::broker::room::{CodeFormat, Key, OpenOptions, Opened};
use crate::protocol::{CloseReason, ErrorCode, Refusal};
use crate::transport::http::origin;
use crate::transport::http::request::{RequestBody, RequestContext};
use crate::transport::state::AppState;

const MAX_BODY_BYTES: usize = 4096;

/// Attempts to find a short code that no other node has assigned.
const MAX_CODE_ATTEMPTS: usize = 4;

/// The request body; an empty one opens a room of two seats without a code.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct OpenRequest {
    max_seats: Option<usize>,
    code: Option<CodeRequest>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CodeRequest {
    /// `true` means digits.
    Default(bool),
    Format(CodeFormat),
}

pub async fn post(app: Arc<AppState>, call: RequestContext, body: impl RequestBody) -> Result<Response, Refusal> {
    origin::check(&app, &call)?;
    let body = authorize(&app, &call, body, MAX_BODY_BYTES).await?.body;
    let request = match &body[..] {
        [] => OpenRequest::default(),
        body => {
            read(body).map_err(|error| Refusal::new(ErrorCode::Malformed, format!("invalid room options: {error}")))?
        }
    };
    let code = match request.code {
        None | Some(CodeRequest::Default(false)) => None,
        Some(CodeRequest::Default(true)) => Some(CodeFormat::Digits),
        Some(CodeRequest::Format(format)) => Some(format),
    };
    let options = OpenOptions { max_seats: request.max_seats, code, codes_alive: 0 };
    let address = call.client().map(|client| client.limit_key());
    let opened = open(&app, options, address).await?;
    let link = link(&opened, call.public_prefix());
    let mut body = json!({
        "room": opened.room.to_string(),
        "link": link,
        "join_secret": opened.join_secret,
        "expires": opened.expires,
    });
    if let Some(code) = opened.code {
        body["code"] = code.into();
        body["code_secs"] = app.rooms_config.limits.code.as_secs().into();
    }
    let mut response = warp::reply::with_status(warp::reply::json(&body), StatusCode::CREATED).into_response();
    if let Ok(link) = HeaderValue::try_from(link) {
        response.headers_mut().insert(header::LOCATION, link);
    }
    Ok(response)
}

/// Opens a room, and registers it in the directory of all nodes.
pub async fn open(app: &AppState, options: OpenOptions, address: Option<IpAddr>) -> Result<Opened, Refusal> {
    let mut options = options;
    for _ in 0..MAX_CODE_ATTEMPTS {
        if let (Some(cluster), Some(_)) = (&app.cluster_rooms, options.code) {
            let lifetime = app.rooms_config.limits.code;
            options.codes_alive = cluster.directory.count_new_code(lifetime, Now::read().unix()).await?;
        }
        let opened = {
            let _reservation = reserve(app, address).await?;
            app.rooms.open(options, address, Now::read())?
        };
        let Some(cluster) = &app.cluster_rooms else { return Ok(opened) };
        let key = Key::Native(opened.room);
        let directory = &cluster.directory;
        let claimed = async {
            directory.claim(&key).await?;
            match &opened.code {
                Some(code) => directory.claim_code(code, app.rooms_config.limits.code).await,
                None => Ok(true),
            }
        };
        let claimed = claimed.await;
        if let Ok(true) = claimed {
            return Ok(opened);
        }
        app.rooms.end(&key, CloseReason::EngineUnavailable);
        claimed?;
    }
    Err(Refusal::new(ErrorCode::LimitReached, "no free short code, retry later"))
}

fn read(body: &[u8]) -> serde_json::Result<OpenRequest> {
    // Read as an object first: serde would also read a struct from an array.
    serde_json::from_slice::<serde_json::Map<_, _>>(body).and_then(|object| serde_json::from_value(object.into()))
}

/// The path of a room, below that of the listener.
pub fn link(opened: &Opened, prefix: &str) -> String {
    format!("{prefix}/v1/rooms/{}", opened.room)
}
