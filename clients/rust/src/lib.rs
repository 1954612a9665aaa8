//! Client of a lastmile gateway: signed publications, and subscriptions that report every loss.
//!
//! [`Publisher`] publishes over signed HTTP and over a WebSocket, receives replies and watches channels. [`Client`]
//! subscribes. Both reconnect by themselves; the README has examples.
#![warn(missing_docs)]

mod backoff;
mod client;
mod connection;
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
mod room;
pub mod signature;
mod socket;
mod token;

pub use client::{Client, Event, Events, State, SubscribeOptions, Subscription};
pub use connection::Connection;
pub use error::Error;
pub use gateway::Gateway;
pub use key::Key;
pub use principal::Principal;
pub use publication::{Gap, GapReason, Payload, Position, Publication, Published};
pub use publisher::{
    Acknowledgement, ChannelEvent, Options, PublishStream, Publisher, Replies, Reply, StreamOptions, Watch,
};
pub use room::{CodeFormat, Room, RoomEvent, RoomMessage, RoomOptions, RoomPeer};
pub use token::TokenSource;
