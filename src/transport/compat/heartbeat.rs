//! `/__heartbeat__`, `/__lbheartbeat__` and `/__version__`: health checks of channelserver deployments.

use serde_json::json;
use warp::Reply;
use warp::reply::Response;

use crate::transport::endpoints;
use crate::transport::http::problem::method_not_allowed;
use crate::transport::http::request::RequestContext;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub fn heartbeat(call: &RequestContext) -> Response {
    get(call, || warp::reply::json(&json!({"status": "ok", "version": VERSION})).into_response())
}

pub fn lbheartbeat(call: &RequestContext) -> Response {
    get(call, Response::default)
}

pub fn version(call: &RequestContext) -> Response {
    let source = env!("CARGO_PKG_REPOSITORY");
    get(call, || {
        warp::reply::json(&json!({"build": "", "commit": "", "source": source, "version": VERSION})).into_response()
    })
}

fn get(call: &RequestContext, answer: impl FnOnce() -> Response) -> Response {
    if call.method() == "GET" { answer() } else { method_not_allowed(&endpoints::HEARTBEAT) }
}
