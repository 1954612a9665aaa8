//! HTTP around the filters: the edge, the request context, CORS, origins, problem documents.

pub mod cors;
pub mod delayed_body;
pub mod edge;
pub mod host;
pub mod origin;
pub mod problem;
pub mod request;
