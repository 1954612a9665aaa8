//! Frames of the WebSocket protocols, close reasons and error codes.

pub mod close;
pub mod command;
pub mod error_code;
pub mod room_frames;
pub mod server_frame;
