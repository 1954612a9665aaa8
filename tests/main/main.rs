//! The gateway over real sockets, by feature.

#[path = "../common/mod.rs"]
mod common;

mod channels;
mod drain;
mod fanout;
mod limits;
mod ops;
mod publishing;
mod python;
mod recovery;
mod reload;
mod replies;
mod signatures;
mod slow;
mod stream;
mod subscribers;
mod tokens;
mod tslm;
