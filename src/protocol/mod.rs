//! Bytes to values and back: names, messages, close reasons, refusals.
//! No clock, no tokio, no I/O.

pub mod channel;
pub mod close;
pub mod command;
pub mod cursor;
pub mod dialects;
pub mod publication;
pub mod refusal;
pub mod reply;
pub mod room;
pub mod websocket;

pub use channel::{ChannelName, InvalidName, Pattern};
pub use close::CloseReason;
pub use cursor::{Cursor, InvalidCursor, Owner};
pub use publication::{Form, Payload, Position, Publication};
pub use refusal::{Code, Refusal};
