//! The state of the Redis engine that its mirrors, quotas, node bus and shared store use.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{RwLock, Semaphore};

use super::connection::{Connection, ConnectionKeeper};
use super::guard::Guard;
use super::keys::Keys;
use super::message_router::MessageRouter;
use crate::engine::channels::Channels;
use crate::protocol::Refusal;

pub struct Core {
    pub channels: Arc<Channels>,
    pub keys: Keys,
    pub connection_keeper: ConnectionKeeper,
    pub guard: Guard,
    pub messages: MessageRouter,
    pub resync_permits: Semaphore,
    /// Write-locked while this node unsubscribes, so that a mirror that subscribes meanwhile keeps its subscription.
    pub subscribe_lock: RwLock<()>,
    /// Name of this node, different for every start.
    pub node: String,
    /// Redis deletes an unused channel after this.
    pub idle: Duration,
    pub runtime: Handle,
}

impl Core {
    /// The current connection, or a refusal at once.
    pub fn connection(&self) -> Result<Arc<Connection>, Refusal> {
        self.connection_keeper.connection()
    }
}
