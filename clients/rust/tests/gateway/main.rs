//! The client against a real gateway.

mod publishing;
mod readme;
mod reconnecting;
mod replies;
mod rooms;
mod subscribing;
mod support;
