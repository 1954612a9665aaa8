//! Shared by the integration tests: gateways in this process or as children, clients, keys, Redis servers.

// `new` makes a fresh key or folder, which is no default.
#![allow(clippy::new_without_default)]

pub mod child;
pub mod events;
pub mod gateway;
pub mod http;
pub mod keys;
pub mod ports;
pub mod provider;
pub mod redis;
pub mod temp_dir;
pub mod ws;

use std::time::Duration;

pub use self::child::ChildGateway;
pub use self::events::{Event, EventReader, Stream};
pub use self::gateway::{TestEnv, TestGateway};
pub use self::http::{Answer, get};
pub use self::keys::{TestIssuer, TestPublisher, unix_now};
pub use self::ports::free_port;
pub use self::provider::{Behaviour, TestProvider};
pub use self::redis::RedisServer;
pub use self::temp_dir::TempDir;
pub use self::ws::{End, Received, Ws};

/// The timeout of every wait: far more than any takes, also on a busy machine.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Waits for `future`, and fails with `what` if it takes too long.
pub async fn with_timeout<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_TIMEOUT, future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// Repeats `probe` until it returns a value.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    with_timeout(what, async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}
