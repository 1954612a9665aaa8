//! The flock dialect: unchanged subscribers and publishers of that system, byte for byte.

#[path = "../common/mod.rs"]
mod common;

mod client;
mod limits;
mod passwords;
mod publishers;
mod python;
mod subscribers;
mod topics;
