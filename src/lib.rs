#![doc = include_str!("README.md")]

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
