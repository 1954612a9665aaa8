//! Handlers of control requests. Each request is checked completely, then applied, then every connection rechecks.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use metrics::Counter;
use serde::Serialize;
use warp::Reply;
use warp::reply::Response;

use crate::auth::publisher::Publisher;
use crate::auth::revocation::{RevocationError, WrittenRevocation};
use crate::broker::Now;
use crate::cluster::pushed_policy::PushedPolicy;
use crate::cluster::revocations;
use crate::ops::log::folded;
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::endpoints;
use crate::transport::http::request::{RequestBody, RequestContext};
use crate::transport::publish::{Signed, authenticate};
use crate::transport::state::AppState;

/// Room for a file of rules or keys.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// `PUT`, `GET` and `DELETE /v1/control/channels`: the channel rules in force.
pub async fn channels(app: Arc<AppState>, call: RequestContext, body: impl RequestBody) -> Result<Response, Refusal> {
    let (publisher, body) = authorize(&app, &call, body).await?;
    let path = call.public_path();
    let head = call.signed_head(&path);
    match call.method() {
        "GET" => return Ok(json(StatusCode::OK, &app.policy_sync.describe())),
        "DELETE" => app.policy_sync.push(PushedPolicy::Rules(None), &head).await?,
        "PUT" => {
            app.policy_sync.read_rules(&body).map_err(|error| Refusal::new(ErrorCode::Malformed, error))?;
            app.policy_sync.push(PushedPolicy::Rules(Some(&body)), &head).await?;
        }
        _ => return Err(ErrorCode::MethodNotAllowed.into()),
    }
    changed(&app, &publisher, "channels", &app.control_counters.channels);
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `PUT /v1/control/jwks/{issuer}`: the public keys that sign for an issuer.
pub async fn jwks(app: Arc<AppState>, call: RequestContext, body: impl RequestBody) -> Result<Response, Refusal> {
    let (publisher, body) = authorize(&app, &call, body).await?;
    if call.method() != "PUT" {
        return Err(ErrorCode::MethodNotAllowed.into());
    }
    let issuer = percent_encoding::percent_decode_str(endpoints::CONTROL_JWKS.parameter(call.path()))
        .decode_utf8()
        .map_err(|_| Refusal::new(ErrorCode::Malformed, "the issuer is not UTF-8"))?;
    let keys = (app.policy_sync.readers.keys)(&body).map_err(|error| Refusal::new(ErrorCode::Malformed, error))?;
    let push = PushedPolicy::Keys { issuer: &issuer, keys, body: &body };
    app.policy_sync.push(push, &call.signed_head(&call.public_path())).await?;
    changed(&app, &publisher, "jwks", &app.control_counters.jwks);
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST` and `GET /v1/control/revocations`: tokens revoked before they expire.
pub async fn revocations(
    app: Arc<AppState>,
    call: RequestContext,
    body: impl RequestBody,
) -> Result<Response, Refusal> {
    let (publisher, body) = authorize(&app, &call, body).await?;
    let now = Now::read().unix();
    match call.method() {
        "GET" => {
            let all = app.policy.revocations().all(now);
            let all: Vec<_> = all.into_iter().map(WrittenRevocation::from).collect();
            return Ok(json(StatusCode::OK, &serde_json::json!({ "revocations": all })));
        }
        "POST" => {}
        _ => return Err(ErrorCode::MethodNotAllowed.into()),
    }
    // serde would also accept an array with the members in order.
    let written: WrittenRevocation = match body.trim_ascii_start() {
        body if body.starts_with(b"{") => serde_json::from_slice(body)
            .map_err(|error| Refusal::new(ErrorCode::Malformed, format!("not a revocation: {error}")))?,
        _ => return Err(Refusal::new(ErrorCode::Malformed, "a revocation is an object")),
    };
    // A token may have been issued by a clock that is ahead by the leeway.
    let leeway = app.policy.issuers().leeway_secs(&written.issuer);
    let revocation =
        written.read(Some(now + leeway.unwrap_or(0))).map_err(|why| Refusal::new(ErrorCode::Malformed, why))?;
    if leeway.is_none() {
        return Err(Refusal::new(ErrorCode::NotFound, "no such issuer is configured"));
    }
    app.revoke(revocation.clone()).map_err(|error| match error {
        RevocationError::Full(_) => Refusal::new(ErrorCode::LimitReached, error.to_string()),
        RevocationError::Ahead => Refusal::new(ErrorCode::Malformed, error.to_string()),
    })?;
    // Already in force on this node; after an error the client may repeat the request.
    revocations::share(&*app.engine, &app.policy, &revocation).await?;
    changed(&app, &publisher, "revocations", &app.control_counters.revocations);
    Ok(json(StatusCode::CREATED, &WrittenRevocation::from(revocation)))
}

/// Admits publishers with `control = true`, and returns the body.
async fn authorize(
    app: &AppState,
    call: &RequestContext,
    body: impl RequestBody,
) -> Result<(Arc<Publisher>, Bytes), Refusal> {
    let Signed { publisher, body } = authenticate(app, call, body, MAX_BODY_BYTES).await?;
    if !publisher.may_control() {
        return Err(Refusal::new(ErrorCode::Forbidden, "this key lacks `control = true`"));
    }
    Ok((publisher, body))
}

/// Makes every connection recheck its policy, and logs the change.
fn changed(app: &AppState, publisher: &Publisher, what: &str, counter: &Counter) {
    app.registry.wake_all();
    counter.increment(1);
    let publisher = publisher.name();
    folded!(INFO, format_args!("{publisher} {what}"), "control request applied", %publisher, what);
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    warp::reply::with_status(warp::reply::json(body), status).into_response()
}
