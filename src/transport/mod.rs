//! Sockets and HTTP. The only module that uses warp.

pub mod accept;
pub mod compat;
pub mod config;
pub mod control;
pub mod credential;
mod demo;
pub mod endpoints;
pub mod http;
pub mod login;
mod ops;
pub mod publish;
pub mod rooms;
pub mod routes;
pub mod state;
pub mod subscribe;
pub mod websocket;
