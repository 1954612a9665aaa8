//! Bytes to values and back: names, messages, close reasons, refusals.
//! No clock, no tokio, no I/O.

pub mod channel;
pub mod close;
pub mod refusal;

pub use channel::{ChannelName, InvalidName, Pattern};
pub use close::CloseReason;
pub use refusal::{Code, Refusal};
