//! Rooms: two peers (or a few) who relay messages to each other. One model for three forms of clients.
//!
//! A [`Rooms`] handle knows every room of this node. What stands under one name is a [`lobby::Lobby`], behind one
//! lock: a single room, or for the relay form any number of pairs and at most one peer that waits. Whoever joins gets
//! a [`Seat`], which is given up when it is dropped. Limits belong to the room, so coming back resets none.

pub mod channelserver;
pub mod code;
mod context;
mod counters;
mod limits;
mod map;
mod native;
mod native_state;
pub mod quota;
mod relay;
mod rooms;
mod seat;
mod secret;
pub mod table;
#[cfg(test)]
pub mod tests;

pub use code::CodeFormat;
pub use limits::{RoomCaps, RoomLimits};
pub use native::{Credential, OpenOptions, Opened};
pub use rooms::Rooms;
pub use seat::Seat;
pub use secret::new_id;
pub use table::{JoinRequest, Key, Relayed};
