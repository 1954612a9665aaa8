//! What the floor programs and the load generator share. One thread and one epoll each: what they cost must
//! not hide what the measured server costs.

pub mod client_pool;
pub mod publisher;
pub mod scenario;
pub mod sign;
pub mod stats;
pub mod sys;
pub mod target;
pub mod token;
pub mod ws;
