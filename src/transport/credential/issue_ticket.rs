//! `POST /v1/tickets`: exchanges a credential for a `?ticket=`, for clients that cannot set a header.

use std::sync::Arc;

use http::{StatusCode, header};
use serde::Deserialize;
use warp::Reply;
use warp::reply::Response;

use super::tickets::TICKET_LIFETIME;
use crate::broker::Now;
use crate::broker::channel::session::rfc3339;
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::credential;
use crate::transport::endpoints::TicketPurpose;
use crate::transport::http::origin;
use crate::transport::http::request::{RequestBody, RequestContext};
use crate::transport::publish::read_body;
use crate::transport::state::AppState;

/// A body holds only a purpose.
const MAX_BODY_BYTES: usize = 256;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct TicketRequest {
    purpose: TicketPurpose,
}

pub async fn post(app: Arc<AppState>, call: RequestContext, body: impl RequestBody) -> Result<Response, Refusal> {
    origin::check(&app, &call)?;
    let principal = credential::principal(&app, &call).await?.ok_or(ErrorCode::Unauthenticated)?;
    let body = read_body(&app, body, MAX_BODY_BYTES).await?;
    let malformed =
        || Refusal::new(ErrorCode::Malformed, "not an object with a `purpose` of subscribe, events, poll, rooms");
    let TicketRequest { purpose } = match body.trim_ascii() {
        [] => TicketRequest::default(),
        body if body.starts_with(b"{") => serde_json::from_slice(body).map_err(|_| malformed())?,
        _ => return Err(malformed()),
    };
    let now = Now::read();
    let ticket = app.tickets.issue(app.engine.shared_store(), principal, purpose, now.monotonic).await?;
    let expires = rfc3339(now.unix() + TICKET_LIFETIME.as_secs());
    let json = serde_json::json!({ "ticket": ticket, "expires": expires }).to_string();
    let response = warp::reply::with_header(json, header::CONTENT_TYPE, "application/json");
    Ok(warp::reply::with_status(response, StatusCode::CREATED).into_response())
}
