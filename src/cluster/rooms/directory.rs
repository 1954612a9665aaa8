//! The directory of rooms: names in the shared store that hold the owner node of each room.
//!
//! The owner is the node that opened the room, or for the relay form the node of the first peer. It stays the owner until
//! the room is empty. Peers of other nodes are forwarded to it.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{StreamExt, future, stream};
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, MutexGuard};

use crate::broker::Engine;
use crate::broker::room::code::canonical;
use crate::broker::room::wrong_codes::{WRONG_CODE_WINDOW, WrongCodeCounts, networks_of};
use crate::broker::room::{Key, Rooms};
use crate::ops::log::folded;
use crate::protocol::{CloseReason, ErrorCode, Refusal};

/// Directory entries expire after this time without a refresh, so those of a lost node expire too.
pub const DIRECTORY_LEASE: Duration = Duration::from_secs(120);

/// How often a node refreshes its directory entries.
pub const DIRECTORY_REFRESH_INTERVAL: Duration = Duration::from_secs(40);

/// Requests to the shared store at the same time.
pub const MAX_CONCURRENT_REQUESTS: usize = 64;

/// Counts of wrong codes of all networks, by whether the network had one before.
const WRONG_CODES_FIRST: &str = "room:wrong:first";
const WRONG_CODES_REPEATED: &str = "room:wrong:repeated";

/// Locks of the names.
const LOCK_STRIPES: usize = 64;

pub struct RoomDirectory {
    engine: Arc<dyn Engine>,
    node: String,
    /// Locked from the claim of a name until its room exists, and while a name is released.
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl RoomDirectory {
    pub fn new(engine: Arc<dyn Engine>, node: String) -> Self {
        let stripes = (0..LOCK_STRIPES).map(|_| Mutex::default()).collect();
        Self { engine, node, stripes, hasher: RandomState::new() }
    }

    /// The owner of a room; `None` if that is this node, or if there is no such room.
    pub async fn lookup_owner(&self, key: &Key) -> Result<Option<String>, Refusal> {
        self.read(&name(key)).await
    }

    /// The owner of the room that a short code opens; `None` as in [`RoomDirectory::lookup_owner`].
    pub async fn lookup_code(&self, code: &str) -> Result<Option<String>, Refusal> {
        self.read(&name_of_code(code)).await
    }

    /// How long an attempt has to wait, by the wrong codes on all nodes. Refuses after too many.
    pub async fn code_attempt_delay(&self, address: Option<IpAddr>) -> Result<Duration, Refusal> {
        let counts = self.wrong_codes(address).await?;
        counts.delay().ok_or_else(|| ErrorCode::RateLimited.into())
    }

    pub async fn count_wrong_code(&self, address: Option<IpAddr>) -> Result<(), Refusal> {
        let counts = self.wrong_codes(address).await?;
        let of_all = if counts.is_repeated() { WRONG_CODES_REPEATED } else { WRONG_CODES_FIRST };
        let names = networks_of(address).map(|(network, _)| wrong_codes_of(network)).chain([of_all.to_owned()]);
        let counted = names.map(async |name| self.count_codes(&name, 1).await);
        future::try_join_all(counted).await.map(drop)
    }

    async fn wrong_codes(&self, address: Option<IpAddr>) -> Result<WrongCodeCounts, Refusal> {
        let networks = networks_of(address).map(async |(network, limit)| {
            self.count_codes(&wrong_codes_of(network), 0).await.map(|count| (count, limit))
        });
        let (networks, first, repeated) = future::try_join3(
            future::try_join_all(networks),
            self.count_codes(WRONG_CODES_FIRST, 0),
            self.count_codes(WRONG_CODES_REPEATED, 0),
        )
        .await?;
        Ok(WrongCodeCounts { networks, first, repeated })
    }

    async fn count_codes(&self, name: &str, more: u32) -> Result<u64, Refusal> {
        self.engine.shared_store().increment(name, more, WRONG_CODE_WINDOW).await
    }

    /// Counts a new code. Returns how many may be valid on all nodes: those of the current and the last `lifetime`.
    pub async fn count_new_code(&self, lifetime: Duration, now_unix: u64) -> Result<u64, Refusal> {
        let (shared, period) = (self.engine.shared_store(), now_unix / lifetime.as_secs().max(1));
        let name = |period: u64| format!("room:codes:{period}");
        let (current, last) = (name(period), name(period.saturating_sub(1)));
        let kept = 2 * lifetime;
        let (current, last) =
            future::try_join(shared.increment(&current, 1, kept), shared.increment(&last, 0, kept)).await?;
        Ok(current + last)
    }

    async fn read(&self, name: &str) -> Result<Option<String>, Refusal> {
        let Some(node) = self.engine.shared_store().get(name).await? else { return Ok(None) };
        let node = String::from_utf8_lossy(&node).into_owned();
        // A room ends with its node.
        let is_remote = node != self.node && self.engine.shared_store().is_alive(&node).await?;
        Ok(is_remote.then_some(node))
    }

    /// Locks a name against claims and releases on this node.
    pub async fn lock_name(&self, key: &Key) -> MutexGuard<'_, ()> {
        self.stripes[self.hasher.hash_one(key) as usize % LOCK_STRIPES].lock().await
    }

    /// Claims a name for this node. Returns the owner if that is another node.
    pub async fn claim(&self, key: &Key) -> Result<Option<String>, Refusal> {
        let (shared, name) = (self.engine.shared_store(), name(key));
        let mut owner = shared.claim(&name, &self.node, None, DIRECTORY_LEASE).await?;
        if owner != self.node && !shared.is_alive(&owner).await? {
            owner = shared.claim(&name, &self.node, Some(&owner), DIRECTORY_LEASE).await?;
        }
        Ok(Some(owner).filter(|owner| *owner != self.node))
    }

    /// Claims a short code for this node. `false` if it opens another room already.
    pub async fn claim_code(&self, code: &str, ttl: Duration) -> Result<bool, Refusal> {
        self.engine.shared_store().set_if_absent(&name_of_code(code), self.node.as_bytes(), ttl).await
    }

    /// Releases a name, unless it has a room again.
    pub async fn release(&self, rooms: &Rooms, key: &Key) {
        let _lock = self.lock_name(key).await;
        if rooms.has(key) {
            return;
        }
        // If this fails, the name expires.
        let _ = self.engine.shared_store().release(&name(key), &self.node).await;
    }

    /// Renews the names of all rooms. To be called several times within [`DIRECTORY_LEASE`]. Ends a room whose name another
    /// node has claimed meanwhile.
    pub async fn renew(&self, rooms: &Rooms) {
        stream::iter(rooms.keys())
            .for_each_concurrent(MAX_CONCURRENT_REQUESTS, |key| async move {
                let _lock = self.lock_name(&key).await;
                if rooms.has(&key)
                    && let Ok(Some(owner)) = self.claim(&key).await
                {
                    folded!(WARN, "", "room has another owner, ending it on this node", node = owner);
                    rooms.end(&key, CloseReason::EngineUnavailable);
                }
            })
            .await;
    }
}

fn name(key: &Key) -> String {
    match key {
        Key::Channel(id) => format!("room:channel:{id}"),
        Key::Native(id) => format!("room:native:{id}"),
        Key::Relay(id) => format!("room:relay:{}", digest(id)),
    }
}

fn wrong_codes_of(network: IpNet) -> String {
    format!("room:wrong:{network}")
}

fn name_of_code(code: &str) -> String {
    format!("room:code:{}", digest(&canonical(code)))
}

/// Hashed, so that names of all lengths become one length.
fn digest(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(text))
}
