//! Rooms: relay messages between a few peers. One model for three protocols: native, channelserver, relay.
//!
//! [`Rooms`] has all rooms of this node. A name stands for a [`table::RoomTable`] behind one lock: a single room, or in
//! the relay protocol any number of pairs and at most one waiting peer. A peer that joins gets a [`Seat`], which it leaves
//! when that is dropped. Limits belong to the room, so reconnecting does not reset them.

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
pub mod wrong_codes;

pub use code::CodeFormat;
pub use limits::{RoomCaps, RoomLimits};
pub use native::{Credential, OpenOptions, Opened};
pub use rooms::Rooms;
pub use seat::Seat;
pub use secret::new_id;
pub use table::{JoinRequest, Key, Relayed};
