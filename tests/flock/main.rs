//! The flock dialect: unchanged subscribers and publishers of that system, byte for byte.

mod client;
mod limits;
mod passwords;
mod publishers;
mod python;
mod subscribers;
mod topics;
