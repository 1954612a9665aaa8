//! The client against a real gateway.

mod publishing;
mod readme;
mod reconnecting;
mod replies;
mod subscribing;
mod support;
