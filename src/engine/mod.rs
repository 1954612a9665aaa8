//! Order and memory: what gives publications their offsets and keeps the backlog.

mod backlog;
mod budget;
mod channels;
pub mod disk;
mod log;
pub mod memory;
pub mod publisher_index;
pub mod redis;

pub use channels::MemoryLimits;
pub use disk::{Disk, DiskConfig, DiskError};
pub use memory::Memory;
pub use redis::{Redis, RedisConfig, RedisError, RedisKind};
