//! Bytes to values and back: names, messages, close reasons, refusals.
//! No clock, no tokio, no I/O.

pub mod channel;
pub mod compat;
pub mod cursor;
pub mod frame;
pub mod publication;
pub mod websocket;

pub use channel::{ChannelName, InvalidName, Pattern};
pub use cursor::{Cursor, InvalidCursor, Owner};
pub use frame::close::CloseReason;
pub use frame::error_code::{ErrorCode, Refusal};
pub use publication::{Form, Payload, Position, Publication};
