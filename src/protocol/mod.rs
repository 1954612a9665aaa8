//! Bytes to values and back: names, frames, close reasons, refusals.
//! Pure: no clock, no tokio, no I/O.

pub mod channel;
pub mod compat;
pub mod cursor;
pub mod frame;
pub mod json;
pub mod payload;
pub mod publication;
pub mod websocket;

pub use channel::{ChannelName, InvalidName, Pattern};
pub use cursor::{Cursor, InvalidCursor, Owner};
pub use frame::close::CloseReason;
pub use frame::error_code::{ErrorCode, Refusal};
pub use payload::Payload;
pub use publication::{Form, Position, Publication};
