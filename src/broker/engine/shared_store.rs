//! A small memory that all nodes of an engine share, for what may happen once anywhere.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::protocol::Refusal;

/// Every value is forgotten after its time. While the memory is away all of it refuses with `engine-unavailable`.
pub trait SharedStore: Send + Sync {
    /// The number of the connection of now: behind another one may be a memory that lost something.
    fn connection_epoch(&self) -> Result<u64, Refusal>;

    /// Keeps a value under a name that has none. `false` if it has one.
    fn set_if_absent<'a>(
        &'a self,
        name: &'a str,
        value: &'a [u8],
        lives: Duration,
    ) -> BoxFuture<'a, Result<bool, Refusal>>;

    /// Keeps a value, in the place of whatever was there.
    fn put<'a>(&'a self, name: &'a str, value: &'a [u8], lives: Duration) -> BoxFuture<'a, Result<(), Refusal>>;

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, Refusal>>;

    /// Gives a value to the first who asks.
    fn get_and_delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, Refusal>>;

    /// Keeps `value` under a name that has none, this one, or `instead_of`. Returns the value that the name has then.
    fn claim<'a>(
        &'a self,
        name: &'a str,
        value: &'a str,
        instead_of: Option<&'a str>,
        lives: Duration,
    ) -> BoxFuture<'a, Result<String, Refusal>>;

    /// Counts under a name, over a time that begins with its first count. Returns how many there are.
    fn increment<'a>(&'a self, name: &'a str, more: u32, lives: Duration) -> BoxFuture<'a, Result<u64, Refusal>>;

    /// Takes as many of the places under a name as are `wanted`, or as `limit` leaves; other nodes have theirs, those that
    /// are gone none. `taken` are taken already, whatever the limit says. Returns how many places this node has.
    fn reserve<'a>(
        &'a self,
        name: &'a str,
        taken: u64,
        wanted: u64,
        limit: u64,
        lives: Duration,
    ) -> BoxFuture<'a, Result<u64, Refusal>>;

    /// Forgets a name if it has this value.
    fn release<'a>(&'a self, name: &'a str, value: &'a str) -> BoxFuture<'a, Result<(), Refusal>>;

    /// A word for all nodes, also for those that begin later, as long as it lives.
    fn append_log<'a>(&'a self, word: &'a [u8], lives: Duration) -> BoxFuture<'a, Result<(), Refusal>>;

    /// The words behind a place, each with its place, oldest first; `""` is before all.
    fn read_log<'a>(&'a self, after: &'a str) -> BoxFuture<'a, Result<Vec<(String, Bytes)>, Refusal>>;

    /// Whether a node said so in the last ten seconds.
    fn is_alive<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<bool, Refusal>>;

    /// This node is gone.
    fn deregister(&self) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Says that this node is there, and something about it.
    fn heartbeat<'a>(&'a self, about: &'a [u8]) -> BoxFuture<'a, Result<(), Refusal>>;
}
