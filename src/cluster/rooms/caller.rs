//! The client of a room connection: its metadata for peers, its address, and whether it is remote.

use std::net::IpAddr;
use std::sync::Arc;

use crate::protocol::frame::room_frames::Sender;

#[derive(Clone)]
pub struct Caller {
    pub sender: Arc<Sender>,
    /// The address that limits count.
    pub address: Option<IpAddr>,
    /// The client is connected to another node, which forwards its frames.
    pub is_remote: bool,
}
