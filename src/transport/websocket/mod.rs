//! WebSockets: the upgrade, the socket under it, and the task that drives it.

pub mod driver;
pub mod serial;
pub mod upgrade;
pub mod wire;

pub use driver::{Driver, Handler};
pub use wire::Wire;
