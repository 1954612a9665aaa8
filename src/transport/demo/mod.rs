//! The page at `/demo`, served only by `lastmile demo`.

use http::header;
use warp::Reply;
use warp::reply::{Response, with_header};

use super::state::AppState;
use crate::protocol::{ErrorCode, Refusal};

pub fn page(app: &AppState, path: &str) -> Result<Response, Refusal> {
    if !app.demo {
        return Err(ErrorCode::NotFound.into());
    }
    let (text, content_type) = match path {
        "" => (include_str!("page.html"), "text/html; charset=utf-8"),
        "page.js" => (include_str!("page.js"), "text/javascript; charset=utf-8"),
        "room.js" => (include_str!("room.js"), "text/javascript; charset=utf-8"),
        // The package's own build; a test of the client compares it with its source.
        "client.js" => (include_str!("../../../clients/js/dist/client.js"), "text/javascript; charset=utf-8"),
        "page.svg" => (include_str!("page.svg"), "image/svg+xml"),
        "page.css" => (include_str!("page.css"), "text/css; charset=utf-8"),
        _ => return Err(ErrorCode::NotFound.into()),
    };
    Ok(with_header(text, header::CONTENT_TYPE, content_type).into_response())
}
