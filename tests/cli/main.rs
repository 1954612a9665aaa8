//! The commands as people run them: the real program, on free ports of this machine.

mod demo;
mod egress;
mod keys;
mod packaging;
mod pair;
#[path = "../common/ports.rs"]
mod ports;
mod publish;
mod serve;
mod subscribe;
mod support;
mod tokens;
