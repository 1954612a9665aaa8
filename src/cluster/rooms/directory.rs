//! Which node a room is on: the one that opened it, or for an id of the relay form the first where somebody wanted it. It
//! stays there until nobody is in it; peers who are connected to other nodes are carried to it.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, MutexGuard};

use crate::broker::room::code::{MAX_WRONG_CODES, MAX_WRONG_CODES_PER_ADDRESS, WRONG_CODE_WINDOW, canonical};
use crate::broker::room::{Key, Rooms};
use crate::broker::{Engine, SharedStore};
use crate::protocol::{CloseReason, ErrorCode, Refusal};

/// Directory entries expire after this time without a refresh, so those of a lost node expire too.
pub const DIRECTORY_LEASE: Duration = Duration::from_secs(120);

/// How often a node refreshes its directory entries.
pub const DIRECTORY_REFRESH_INTERVAL: Duration = Duration::from_secs(40);

/// Requests to the shared store at the same time.
pub const MAX_CONCURRENT_REQUESTS: usize = 64;

/// Locks over the names.
const LOCK_STRIPES: usize = 64;

pub struct RoomDirectory {
    engine: Arc<dyn Engine>,
    node: String,
    /// Held while a name is claimed and the room comes into being, and while a name is given up.
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl RoomDirectory {
    pub fn new(engine: Arc<dyn Engine>, node: String) -> Self {
        let stripes = (0..LOCK_STRIPES).map(|_| Mutex::default()).collect();
        Self { engine, node, stripes, hasher: RandomState::new() }
    }

    /// The node of a room, unless it is this one or there is no such room.
    pub async fn lookup_owner(&self, key: &Key) -> Result<Option<String>, Refusal> {
        self.read(&name(key)).await
    }

    /// The same for a room that is known by its short code.
    pub async fn lookup_code(&self, code: &str) -> Result<Option<String>, Refusal> {
        self.read(&name_of_code(code)).await
    }

    /// Refuses whoever guessed wrong too often, on whatever node.
    pub async fn check_code_attempts(&self, address: Option<IpAddr>) -> Result<(), Refusal> {
        let (all, by_address) = self.count_codes(address, 0).await?;
        let is_too_many = all >= u64::from(MAX_WRONG_CODES) || by_address >= u64::from(MAX_WRONG_CODES_PER_ADDRESS);
        if is_too_many { Err(ErrorCode::RateLimited.into()) } else { Ok(()) }
    }

    pub async fn count_wrong_code(&self, address: Option<IpAddr>) -> Result<(), Refusal> {
        self.count_codes(address, 1).await.map(drop)
    }

    /// Wrong codes of all addresses and of one.
    async fn count_codes(&self, address: Option<IpAddr>, more: u32) -> Result<(u64, u64), Refusal> {
        let shared = self.shared()?;
        let all = shared.increment("room:wrong", more, WRONG_CODE_WINDOW).await?;
        let by_address = match address {
            Some(address) => shared.increment(&format!("room:wrong:{address}"), more, WRONG_CODE_WINDOW).await?,
            None => 0,
        };
        Ok((all, by_address))
    }

    async fn read(&self, name: &str) -> Result<Option<String>, Refusal> {
        let Some(node) = self.shared()?.get(name).await? else { return Ok(None) };
        let node = String::from_utf8_lossy(&node).into_owned();
        // What was on a node that is gone is gone with it.
        let is_there = node != self.node && self.shared()?.is_alive(&node).await?;
        Ok(is_there.then_some(node))
    }

    /// Keeps others from claiming a name or giving it up on this node.
    pub async fn lock_name(&self, key: &Key) -> MutexGuard<'_, ()> {
        self.stripes[self.hasher.hash_one(key) as usize % LOCK_STRIPES].lock().await
    }

    /// Takes a name for this node. Gives the node that has it, if that is another one.
    pub async fn claim(&self, key: &Key) -> Result<Option<String>, Refusal> {
        let (shared, name) = (self.shared()?, name(key));
        let mut owner = shared.claim(&name, &self.node, None, DIRECTORY_LEASE).await?;
        if owner != self.node && !shared.is_alive(&owner).await? {
            owner = shared.claim(&name, &self.node, Some(&owner), DIRECTORY_LEASE).await?;
        }
        Ok(Some(owner).filter(|owner| *owner != self.node))
    }

    /// Takes a short code for this node. `false` if it opens a room somewhere already.
    pub async fn claim_code(&self, code: &str, lives: Duration) -> Result<bool, Refusal> {
        self.shared()?.set_if_absent(&name_of_code(code), self.node.as_bytes(), lives).await
    }

    /// Gives a name up, unless a room stands under it again.
    pub async fn release(&self, rooms: &Rooms, key: &Key) {
        let _held = self.lock_name(key).await;
        if rooms.has(key) {
            return;
        }
        if let Ok(shared) = self.shared() {
            // If this fails, it is forgotten after its time.
            let _ = shared.release(&name(key), &self.node).await;
        }
    }

    /// To be called several times within [`DIRECTORY_LEASE`]. A name that another node took meanwhile is left to it.
    pub async fn renew(&self, rooms: &Rooms) {
        stream::iter(rooms.keys())
            .for_each_concurrent(MAX_CONCURRENT_REQUESTS, |key| async move {
                let _held = self.lock_name(&key).await;
                if rooms.has(&key)
                    && let Ok(Some(owner)) = self.claim(&key).await
                {
                    tracing::warn!(node = owner, "a room is on another node too; the one here ends");
                    rooms.end(&key, CloseReason::EngineUnavailable);
                }
            })
            .await;
    }

    fn shared(&self) -> Result<&dyn SharedStore, Refusal> {
        self.engine.shared_store().ok_or(ErrorCode::EngineUnavailable.into())
    }
}

fn name(key: &Key) -> String {
    match key {
        Key::Channel(id) => format!("room:channel:{id}"),
        Key::Native(id) => format!("room:native:{id}"),
        Key::Relay(id) => format!("room:relay:{}", digest(id)),
    }
}

fn name_of_code(code: &str) -> String {
    format!("room:code:{}", digest(&canonical(code)))
}

/// Of one length, whatever a client made up.
fn digest(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(text))
}
