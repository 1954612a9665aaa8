//! The shared store: small values with an expiry that all nodes share.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::protocol::Refusal;

/// Every value expires. While the store is unavailable, every call fails with `engine-unavailable`.
pub trait SharedStore: Send + Sync {
    /// The number of the current connection. After a change, the store may have lost values.
    fn connection_epoch(&self) -> Result<u64, Refusal>;

    /// Stores a value under a name without one. `false` if the name has a value.
    fn set_if_absent<'a>(
        &'a self,
        name: &'a str,
        value: &'a [u8],
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, Refusal>>;

    /// Stores a value and replaces an earlier one.
    fn put<'a>(&'a self, name: &'a str, value: &'a [u8], ttl: Duration) -> BoxFuture<'a, Result<(), Refusal>>;

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, Refusal>>;

    /// Returns and removes a value, so that one caller gets it.
    fn get_and_delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, Refusal>>;

    /// Stores `value` under a name without a value, or with `value` or `instead_of`. Returns the value of the name after
    /// that.
    fn claim<'a>(
        &'a self,
        name: &'a str,
        value: &'a str,
        instead_of: Option<&'a str>,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<String, Refusal>>;

    /// Adds to a counter, which expires `ttl` after its first count. Returns the sum.
    fn increment<'a>(&'a self, name: &'a str, more: u32, ttl: Duration) -> BoxFuture<'a, Result<u64, Refusal>>;

    /// Reserves `wanted` slots of a quota for this node, or as many as `limit` leaves beside the live nodes. `taken` slots
    /// are in use and stay reserved whatever the limit. Returns the slots of this node.
    fn reserve<'a>(
        &'a self,
        name: &'a str,
        taken: u64,
        wanted: u64,
        limit: u64,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<u64, Refusal>>;

    /// Removes a name if it has this value.
    fn release<'a>(&'a self, name: &'a str, value: &'a str) -> BoxFuture<'a, Result<(), Refusal>>;

    /// Appends an entry to the log of all nodes. Nodes that start later read it too, until it expires.
    fn append_log<'a>(&'a self, entry: &'a [u8], ttl: Duration) -> BoxFuture<'a, Result<(), Refusal>>;

    /// The log entries after an entry id, with their ids, oldest first; `""` for all.
    fn read_log<'a>(&'a self, after: &'a str) -> BoxFuture<'a, Result<Vec<(String, Bytes)>, Refusal>>;

    /// Whether a node sent a heartbeat in the last ten seconds.
    fn is_alive<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<bool, Refusal>>;

    /// Removes this node.
    fn deregister(&self) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Records that this node is alive, with a description of it.
    fn heartbeat<'a>(&'a self, about: &'a [u8]) -> BoxFuture<'a, Result<(), Refusal>>;
}
