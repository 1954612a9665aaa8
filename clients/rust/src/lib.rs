//! Client of a lastmile gateway: publishers inside send signed publications out, and listeners get each one once and
//! in order, or are told what is lost.
//!
//! [`Publisher`] publishes over signed HTTP and over a WebSocket, receives replies and watches channels. [`Client`]
//! listens. Both keep their connections themselves; the README has examples.
#![forbid(unsafe_code)]

mod backoff;
mod client;
mod error;
mod frame;
mod gateway;
mod http;
mod json;
mod key;
mod principal;
mod publication;
mod publisher;
mod random;
mod signature;
mod socket;

pub use client::{Client, Event, Events, State, SubscribeOptions, Subscription, TokenSource};
pub use error::Error;
pub use gateway::Gateway;
pub use key::Key;
pub use principal::Principal;
pub use publication::{Gap, GapReason, Payload, Position, Publication, Published};
pub use publisher::{
    Acknowledgement, ChannelEvent, Options, PublishStream, Publisher, Replies, Reply, StreamOptions, Watch,
};
