//! Hostile clients against the real program: framing, HTTP, TLS, proxies, limits, logs. docs/security.md lists the attacks.
//!
//! Every gateway is a child process, so that tests can check its memory, log and exit code. A test fails if its gateway
//! panicked.

mod node;
mod raw;
mod ws;

mod codes;
mod deflate;
mod framing;
mod fuzz;
mod handshake;
mod heads;
mod http;
mod http2;
mod http2_streams;
mod limits;
mod log_output;
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
