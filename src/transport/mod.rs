//! Sockets and HTTP. The only place that knows warp.

pub mod admission;
pub mod app;
pub mod call;
pub mod config;
pub mod control;
mod cors;
pub mod credential;
mod demo;
mod fallback;
pub mod flock;
mod front;
mod http2;
pub mod listener;
mod ops;
mod origin;
mod problem;
mod proxy;
pub mod publish;
pub mod registry;
mod rooms;
pub mod routes;
mod subscribe;
pub mod tickets;
pub mod tls;
mod tslm;
pub mod websocket;
mod write_deadline;
