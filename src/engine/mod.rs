//! The engines: they assign offsets to publications and keep the backlog.

mod backlog;
mod budget;
mod channels;
pub mod disk;
mod lives;
mod local_store;
mod log;
pub mod memory;
mod millis;
pub mod publisher_index;
pub mod redis;
mod waiting;

pub use channels::MemoryLimits;
pub use disk::{Disk, DiskConfig, DiskError};
pub use local_store::LocalStore;
pub use memory::Memory;
pub use redis::{ClusterSecret, Redis, RedisConfig, RedisError, RedisKind, Unauthenticated};
pub use waiting::WaitingLimits;
