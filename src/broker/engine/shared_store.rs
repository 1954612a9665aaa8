//! State that the nodes of an engine share: names with values that expire, a log, and the list of nodes.

use std::time::Duration;

use bytes::Bytes;

use super::future::EngineFuture;
use crate::protocol::Refusal;

/// Whether values prove that a node wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// No other process can write them, or the operator trusts all that can.
    None,
    /// Those of this node do; others are accepted too.
    Written,
    /// All do; others are refused.
    Required,
}

/// Every name and log entry expires after its `ttl`. All methods refuse with `engine-unavailable` while the store cannot
/// be reached. An engine for one node keeps the store in memory, and refuses with `limit-reached` when it is full.
pub trait SharedStore: Send + Sync {
    /// Whether other nodes use it too.
    fn has_other_nodes(&self) -> bool;

    /// Number of the current connection. After it changes, the store may have lost entries.
    fn connection_epoch(&self) -> Result<u64, Refusal>;

    fn authentication(&self) -> Authentication {
        Authentication::None
    }

    /// Sets a value unless the name has one. Returns whether it did.
    fn set_if_absent<'a>(&'a self, name: &'a str, value: &'a [u8], ttl: Duration) -> EngineFuture<'a, bool>;

    /// [`SharedStore::set`] over restarts. A store that ends with the process loses the value with it.
    fn keep<'a>(&'a self, name: &'a str, value: &'a [u8], ttl: Duration) -> EngineFuture<'a, ()> {
        self.set(name, value, ttl)
    }

    /// Sets a value, in place of an earlier one.
    fn set<'a>(&'a self, name: &'a str, value: &'a [u8], ttl: Duration) -> EngineFuture<'a, ()>;

    /// Refuses a value that no node wrote, as while the store cannot be reached.
    fn get<'a>(&'a self, name: &'a str) -> EngineFuture<'a, Option<Bytes>>;

    /// Returns a value to the first caller only; `None` also for one that no node wrote.
    fn get_and_delete<'a>(&'a self, name: &'a str) -> EngineFuture<'a, Option<Bytes>>;

    /// Sets `value` if the name has none, this one, or `instead_of`. Returns the value that the name has afterwards.
    fn claim<'a>(
        &'a self,
        name: &'a str,
        value: &'a str,
        instead_of: Option<&'a str>,
        ttl: Duration,
    ) -> EngineFuture<'a, String>;

    /// Adds to the count of a name, which expires `ttl` after its first count. Returns the sum.
    fn increment<'a>(&'a self, name: &'a str, more: u32, ttl: Duration) -> EngineFuture<'a, u64>;

    /// Sets this node's slots under a name to `wanted`, or to as many as `limit` leaves beside the slots of other live
    /// nodes, but never below `taken`, which are in use already. Returns this node's slots.
    fn reserve<'a>(
        &'a self,
        name: &'a str,
        taken: u64,
        wanted: u64,
        limit: u64,
        ttl: Duration,
    ) -> EngineFuture<'a, u64>;

    /// Deletes a name if it has this value.
    fn release<'a>(&'a self, name: &'a str, value: &'a str) -> EngineFuture<'a, ()>;

    /// An id that outlives every process of this store; `None` if the store ends with the process.
    fn identity(&self) -> Option<String>;

    /// Uses up a name for at least `ttl`, on all nodes and over restarts. Returns whether this is the first use. The
    /// caller has checked the name in its own memory: a store that ends with the process stores nothing.
    fn spend<'a>(&'a self, name: &'a str, ttl: Duration) -> EngineFuture<'a, bool>;

    /// Uses up the nonce of a signature, like [`SharedStore::spend`]. `name` is unique over all keys, `key` the fingerprint
    /// of the key, `created` the time of the signature in seconds since 1970.
    fn use_nonce<'a>(&'a self, name: &'a str, key: &'a str, created: u64) -> EngineFuture<'a, bool>;

    /// Signatures of a key whose `created` is at most this may have been used in earlier processes, and
    /// [`SharedStore::use_nonce`] does not know them. `None` if nothing is known of earlier processes.
    fn forgotten_nonces(&self, key: &str) -> Option<u64>;

    /// Appends an entry for all nodes, including those that start within its `ttl`, in place of an earlier one of this
    /// name if the store is of one node.
    fn append_log<'a>(&'a self, name: &'a str, entry: &'a [u8], ttl: Duration) -> EngineFuture<'a, ()>;

    /// The entries after a position, each with its position, oldest first; `""` is before the first one. Those that no node
    /// wrote are empty.
    fn read_log<'a>(&'a self, after: &'a str) -> EngineFuture<'a, Vec<(String, Bytes)>>;

    /// Whether a node sent a heartbeat in the last ten seconds.
    fn is_alive<'a>(&'a self, node: &'a str) -> EngineFuture<'a, bool>;

    /// Removes this node from the list of nodes.
    fn deregister(&self) -> EngineFuture<'_, ()>;

    /// Keeps this node in the list of nodes, with its status as JSON.
    fn heartbeat<'a>(&'a self, status: &'a [u8]) -> EngineFuture<'a, ()>;
}

impl dyn SharedStore + '_ {
    /// [`SharedStore::set_if_absent`] for a name that this node has checked in its own memory, so that only another node
    /// can have set it.
    pub async fn set_if_absent_remote(&self, name: &str, value: &[u8], ttl: Duration) -> Result<bool, Refusal> {
        if self.has_other_nodes() { self.set_if_absent(name, value, ttl).await } else { Ok(true) }
    }

    /// [`SharedStore::set`] for a value that this node keeps in its own memory, so that only other nodes read it.
    pub async fn set_remote(&self, name: &str, value: &[u8], ttl: Duration) -> Result<(), Refusal> {
        if self.has_other_nodes() { self.set(name, value, ttl).await } else { Ok(()) }
    }
}
