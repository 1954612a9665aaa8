//! `POST /v1/rooms`: opens a room of our own form.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Buf;
use futures_util::Stream;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use warp::Reply;

use super::authorize;
use crate::broker::Now;
use crate::broker::room::{CodeFormat, Key, OpenOptions, Opened};
use crate::cluster::rooms::reserve;
use crate::protocol::{CloseReason, ErrorCode, Refusal};
use crate::transport::http::origin;
use crate::transport::http::request::RequestContext;
use crate::transport::state::AppState;

/// What may be asked for is small.
const MAX_BODY_BYTES: usize = 4096;

/// Tries for a short code that no other node has given out.
const CODE_TRIES: usize = 4;

/// The body; none at all asks for two seats and no code.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct OpenRequest {
    max_seats: Option<usize>,
    code: Option<CodeRequest>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CodeRequest {
    /// `true` is six digits.
    Any(bool),
    Form(CodeFormat),
}

pub async fn post(
    app: Arc<AppState>,
    call: RequestContext,
    body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
) -> Result<warp::reply::Response, Refusal> {
    origin::check(&call)?;
    let body = authorize(&app, &call, body, MAX_BODY_BYTES).await?.body;
    let asked = match &body[..] {
        [] => OpenRequest::default(),
        body => read(body)
            .map_err(|error| Refusal::new(ErrorCode::Malformed, format!("not a description of a room: {error}")))?,
    };
    let code = match asked.code {
        None | Some(CodeRequest::Any(false)) => None,
        Some(CodeRequest::Any(true)) => Some(CodeFormat::Digits),
        Some(CodeRequest::Form(form)) => Some(form),
    };
    let options = OpenOptions { max_seats: asked.max_seats, code };
    let address = call.client().map(|client| client.limit_key());
    let opened = open(&app, options, address).await?;
    let link = link(&opened);
    let mut answer = json!({
        "room": opened.room.to_string(),
        "link": link,
        "join_secret": opened.join_secret,
        "expires": opened.expires,
    });
    if let Some(code) = opened.code {
        answer["code"] = code.into();
        answer["code_secs"] = app.rooms_config.limits.code.as_secs().into();
    }
    let mut response = warp::reply::with_status(warp::reply::json(&answer), StatusCode::CREATED).into_response();
    if let Ok(link) = HeaderValue::try_from(link) {
        response.headers_mut().insert(header::LOCATION, link);
    }
    Ok(response)
}

/// Opens a room that every node can find.
pub async fn open(app: &AppState, options: OpenOptions, address: Option<IpAddr>) -> Result<Opened, Refusal> {
    for _ in 0..CODE_TRIES {
        let opened = {
            let _opening = reserve(app, address).await?;
            app.rooms.open(options, address, Now::read())?
        };
        let Some(elsewhere) = &app.elsewhere else { return Ok(opened) };
        let key = Key::Native(opened.room);
        let whereabouts = &elsewhere.directory;
        let claimed = async {
            whereabouts.claim(&key).await?;
            match &opened.code {
                Some(code) => whereabouts.claim_code(code, app.rooms_config.limits.code).await,
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
    Err(Refusal::new(ErrorCode::LimitReached, "there are too many codes at the moment"))
}

fn read(body: &[u8]) -> serde_json::Result<OpenRequest> {
    // An object: a struct by itself would also be read from an array.
    serde_json::from_slice::<serde_json::Map<_, _>>(body).and_then(|object| serde_json::from_value(object.into()))
}

/// Where a room is on its gateway.
pub fn link(opened: &Opened) -> String {
    format!("/v1/rooms/{}", opened.room)
}
