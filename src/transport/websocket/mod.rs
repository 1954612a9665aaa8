//! WebSockets: the upgrade, the socket under it, and the task that drives it.

pub mod driver;
pub mod sequencer;
pub mod socket;
pub mod upgrade;

pub use crate::broker::connection::handler::Handler;
pub use driver::Driver;
pub use socket::RawSocket;
