//! WebSockets: the upgrade, the socket under it, and the task that drives it.

pub mod driver;
pub mod sequencer;
pub mod socket;
pub mod upgrade;

pub use driver::{Driver, Handler};
pub use socket::RawSocket;
