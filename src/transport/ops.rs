//! The role `ops`: health, readiness and metrics.

use http::{StatusCode, header};
use warp::Reply;
use warp::reply::{Response, with_header, with_status};

use super::state::AppState;
use crate::ops::{Phase, log};

/// The process is running.
pub fn live() -> Response {
    "ok\n".into_response()
}

/// The node accepts traffic.
pub fn ready(app: &AppState) -> Response {
    let phase = app.lifecycle.phase();
    // While the gateway starts, the engine is the cause if it is unavailable.
    let of_phase = phase.unready_reason().filter(|_| phase != Phase::Starting);
    // Without a key every token is refused.
    let of_issuers = || app.policy.issuers().lack_keys().then_some("issuer-unavailable");
    match of_phase.or_else(|| app.engine.unavailable_reason()).or(phase.unready_reason()).or_else(of_issuers) {
        None => "ready\n".into_response(),
        Some(reason) => with_status(format!("{reason}\n"), StatusCode::SERVICE_UNAVAILABLE).into_response(),
    }
}

/// In the text format of Prometheus.
pub fn metrics(app: &AppState) -> Response {
    app.dropped_log_lines.absolute(log::dropped_lines());
    let text = app.metrics.render();
    with_header(text, header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8").into_response()
}
