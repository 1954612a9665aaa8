//! The gateway over real sockets, by feature.

mod authorization;
mod channels;
mod control;
mod cors;
mod cursors;
mod drain;
mod endings;
mod events;
mod fanout;
mod keys;
mod limits;
mod ops;
mod poll;
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
