//! The client against the real gateway.

mod cuts;
mod listening;
mod publishing;
mod readme;
mod replies;
mod support;
