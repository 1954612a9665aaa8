//! The client against the real gateway.

mod publishing;
mod readme;
mod reconnecting;
mod replies;
mod subscribing;
mod support;
