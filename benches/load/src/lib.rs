//! Shared code of the floor programs and the load generator. Each uses one thread and one epoll instance, so that
//! its own cost does not hide the cost of the measured server.

pub mod client_pool;
pub mod publisher;
pub mod scenario;
pub mod sign;
pub mod stats;
pub mod sys;
pub mod target;
pub mod token;
pub mod ws;
