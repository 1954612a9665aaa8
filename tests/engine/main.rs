//! What every engine must do, run against each of them; and what the durable engine does beside that: restarts,
//! `kill -9`, full disks, damaged files.

#[path = "../common/mod.rs"]
mod common;

mod support;

mod bounds;
mod crash;
mod disk;
mod full;
mod order;
mod suite;
