//! People log in over real sockets: at a provider that a test plays, and at a real one.

#[path = "../common/mod.rs"]
mod common;

mod backchannel;
mod browser;
mod cookie;
mod flow;
mod hostile;
mod id_tokens;
mod played;
mod real;
mod world;
