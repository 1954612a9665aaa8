//! Hostile clients against the real program over real sockets: one test for each row of the security table that speaks
//! of framing, of the HTTP front, of TLS, of proxies, of limits and of logs.
//!
//! Every gateway here is a child process, so that its memory, its log and its exit code can be looked at. Whatever a
//! test does, its child must not have panicked when the test ends.

mod node;
mod raw;
mod ws;

mod deflate;
mod framing;
mod fuzz;
mod handshake;
mod http;
mod http2;
mod limits;
mod logs;
mod many_connections;
mod proxies;
mod slow;
mod tls;

use tokio::sync::{Mutex, MutexGuard};

/// Tests that need many sockets or measure memory take turns.
async fn heavy() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}
