#![doc = include_str!("README.md")]
// A panic ends a connection, so `expect` states why it cannot happen. Output goes through the log or a checked write.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr))]

pub mod auth;
pub mod broker;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod engine;
pub mod gateway;
pub mod geo;
pub mod ops;
pub mod protocol;
pub mod transport;
