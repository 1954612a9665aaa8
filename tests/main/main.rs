//! The gateway over real sockets, by feature.

#[path = "../common/mod.rs"]
mod common;

mod authorization;
mod channels;
mod control;
mod drain;
mod fanout;
mod limits;
mod ops;
mod publishing;
mod python;
mod recovery;
mod reload;
mod replies;
mod revocation;
mod signatures;
mod slow;
mod stream;
mod subscribers;
mod tickets;
mod tokens;
mod tslm;
