//! Order and memory: what gives publications their offsets and keeps the backlog.

mod log;
pub mod memory;

pub use memory::Memory;
