//! Order and memory: what gives publications their offsets and keeps the backlog.

mod authors;
pub mod deliver;
mod log;
pub mod memory;

pub use memory::Memory;
