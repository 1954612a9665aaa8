//! The shared store in Redis: keys with a prefix of their own, a stream as log, and the list of nodes.

use std::time::Duration;

use bytes::Bytes;
use redis::cmd;
use redis::streams::{StreamId, StreamRangeReply};

use super::cluster_key::Purpose;
use super::connection::{Connection, unavailable};
use super::core::Core;
use super::guard::Guard;
use super::keys::{Keys, SCRIPTS};
use super::server::{RedisConfig, RedisError, Server};
use crate::broker::SharedStore;
use crate::broker::engine::EngineFuture;
use crate::broker::engine::shared_store::Authentication;
use crate::engine::millis::millis;
use crate::protocol::Refusal;

/// How long Redis remembers a nonce: until every clock finds its signature stale.
const NONCE_TTL: Duration = Duration::from_secs(180);

/// The log expires this long after its last entry. Longer than any entry is needed: nodes with other settings share it.
const LOG_TTL: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Entries of the log; the oldest are dropped beyond it.
const MAX_LOG_ENTRIES: usize = 100_000;
const LOG_PAGE: usize = 1000;

/// A node that sent no heartbeat for this long is not alive.
const NODE_LEASE: Duration = Duration::from_secs(10);
/// The list of nodes expires this long after the last heartbeat.
const NODE_LIST_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Log entries end with the stream. One that returns later ends nothing more than it did.
const LOG_ENTRY_TTL: Duration = Duration::MAX;

impl SharedStore for Core {
    fn has_other_nodes(&self) -> bool {
        true
    }

    fn authentication(&self) -> Authentication {
        self.guard.authentication()
    }

    fn connection_epoch(&self) -> Result<u64, Refusal> {
        Ok(self.connection()?.number)
    }

    fn set_if_absent<'a>(&'a self, name: &'a str, value: &'a [u8], ttl: Duration) -> EngineFuture<'a, bool> {
        Box::pin(async move {
            let (key, mut command) = (self.keys.shared(name), cmd("SET"));
            command
                .arg(&key)
                .arg(self.guard.seal(Purpose::Value, &key, value, ttl)?)
                .arg("NX")
                .arg("PX")
                .arg(millis(ttl));
            Ok(self.connection()?.query::<Option<String>>(&command).await?.is_some())
        })
    }

    fn set<'a>(&'a self, name: &'a str, value: &'a [u8], ttl: Duration) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            let (key, mut command) = (self.keys.shared(name), cmd("SET"));
            command.arg(&key).arg(self.guard.seal(Purpose::Value, &key, value, ttl)?).arg("PX").arg(millis(ttl));
            self.connection()?.query(&command).await
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> EngineFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            let key = self.keys.shared(name);
            let value = self.connection()?.query::<Option<Vec<u8>>>(cmd("GET").arg(&key)).await?;
            value.map(|value| self.guard.open(Purpose::Value, &key, value)).transpose()
        })
    }

    fn get_and_delete<'a>(&'a self, name: &'a str) -> EngineFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            let key = self.keys.shared(name);
            let value = self.connection()?.query::<Option<Vec<u8>>>(cmd("GETDEL").arg(&key)).await?;
            Ok(value.and_then(|value| self.guard.open(Purpose::Value, &key, value).ok()))
        })
    }

    fn claim<'a>(
        &'a self,
        name: &'a str,
        value: &'a str,
        instead_of: Option<&'a str>,
        ttl: Duration,
    ) -> EngineFuture<'a, String> {
        Box::pin(async move {
            let (key, connection) = (self.keys.shared(name), self.connection()?);
            let own = self.guard.seal_comparable(&key, value.as_bytes())?;
            let read = |stored| {
                let value = self.guard.open(Purpose::Value, &key, stored)?;
                String::from_utf8(value.into()).map_err(|_| unavailable())
            };
            let mut claim = SCRIPTS.claim.prepare_invoke();
            claim.key(&key).arg(&own);
            match instead_of {
                None => claim.arg(&own),
                Some(expected) => {
                    // The bytes in Redis depend on the key of the node that wrote them.
                    let stored = connection.query::<Option<Vec<u8>>>(cmd("GET").arg(&key)).await?.unwrap_or_default();
                    let is_expected = !stored.is_empty() && read(stored.clone())? == expected;
                    claim.arg(if is_expected { &stored } else { &own })
                }
            };
            claim.arg(millis(ttl));
            read(connection.invoke(&claim).await?)
        })
    }

    fn increment<'a>(&'a self, name: &'a str, more: u32, ttl: Duration) -> EngineFuture<'a, u64> {
        Box::pin(async move {
            let mut count = SCRIPTS.count.key(self.keys.shared(name));
            count.arg(more).arg(millis(ttl));
            self.connection()?.invoke(&count).await
        })
    }

    fn reserve<'a>(
        &'a self,
        name: &'a str,
        taken: u64,
        wanted: u64,
        limit: u64,
        ttl: Duration,
    ) -> EngineFuture<'a, u64> {
        Box::pin(async move {
            let mut dead = Vec::new();
            loop {
                let mut reserve = SCRIPTS.reserve.key(self.keys.shared(name));
                reserve.arg(&self.node).arg(wanted).arg(limit).arg(millis(ttl)).arg(taken).arg("").arg(&dead);
                let (slots, _, others): (u64, u64, Vec<String>) = self.connection()?.invoke(&reserve).await?;
                if slots >= wanted || !dead.is_empty() {
                    return Ok(slots);
                }
                for other in others {
                    if !self.is_alive(&other).await? {
                        dead.push(other);
                    }
                }
                if dead.is_empty() {
                    return Ok(slots);
                }
            }
        })
    }

    fn release<'a>(&'a self, name: &'a str, value: &'a str) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            let key = self.keys.shared(name);
            let mut release = SCRIPTS.release.key(&key);
            release.arg(self.guard.seal_comparable(&key, value.as_bytes())?);
            self.connection()?.invoke::<u64>(&release).await.map(drop)
        })
    }

    fn identity(&self) -> Option<String> {
        Some(format!("redis {}", self.keys.prefix()))
    }

    fn spend<'a>(&'a self, name: &'a str, ttl: Duration) -> EngineFuture<'a, bool> {
        self.set_if_absent(name, b"", ttl)
    }

    fn use_nonce<'a>(&'a self, name: &'a str, _key: &'a str, _created: u64) -> EngineFuture<'a, bool> {
        self.set_if_absent(name, b"", NONCE_TTL)
    }

    fn forgotten_nonces(&self, _key: &str) -> Option<u64> {
        Some(0)
    }

    fn append_log<'a>(&'a self, _name: &'a str, entry: &'a [u8], _ttl: Duration) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            let (connection, key) = (self.connection()?, self.keys.broadcast_log());
            let mut command = cmd("XADD");
            let sealed = self.guard.seal(Purpose::LogEntry, &key, entry, LOG_ENTRY_TTL)?;
            command.arg(&key).arg("MAXLEN").arg("~").arg(MAX_LOG_ENTRIES).arg("*").arg("w").arg(sealed);
            connection.query::<String>(&command).await?;
            connection.query(cmd("PEXPIRE").arg(&key).arg(millis(LOG_TTL))).await
        })
    }

    fn read_log<'a>(&'a self, after: &'a str) -> EngineFuture<'a, Vec<(String, Bytes)>> {
        Box::pin(async move {
            let from = if after.is_empty() { "-".to_owned() } else { format!("({after}") };
            let (key, mut command) = (self.keys.broadcast_log(), cmd("XRANGE"));
            command.arg(&key).arg(from).arg("+").arg("COUNT").arg(LOG_PAGE);
            let page: StreamRangeReply = self.connection()?.query(&command).await?;
            let entry = |row: StreamId| {
                let sealed = row.get::<Vec<u8>>("w").unwrap_or_default();
                // Empty entries keep the position of those that no node wrote.
                (row.id, self.guard.open(Purpose::LogEntry, &key, sealed).unwrap_or_default())
            };
            Ok(page.ids.into_iter().map(entry).collect())
        })
    }

    fn is_alive<'a>(&'a self, node: &'a str) -> EngineFuture<'a, bool> {
        Box::pin(async move {
            let count = self.connection()?.query::<u64>(cmd("EXISTS").arg(self.keys.node(node))).await?;
            Ok(count == 1)
        })
    }

    fn deregister(&self) -> EngineFuture<'_, ()> {
        Box::pin(async move {
            let connection = self.connection()?;
            connection.query::<u64>(cmd("DEL").arg(self.keys.node(&self.node))).await?;
            connection.query::<u64>(cmd("HDEL").arg(self.keys.nodes()).arg(&self.node)).await.map(drop)
        })
    }

    fn heartbeat<'a>(&'a self, status: &'a [u8]) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            let (connection, key) = (self.connection()?, self.keys.nodes());
            let (own, mut command) = (self.keys.node(&self.node), cmd("SET"));
            let sealed = self.guard.seal(Purpose::Status, &own, status, NODE_LEASE)?;
            command.arg(&own).arg(sealed).arg("PX").arg(millis(NODE_LEASE));
            if let Err(refusal) = connection.query::<String>(&command).await {
                // A full Redis accepts no new value, but still extends the lease of the one that it has.
                connection.query::<u64>(cmd("PEXPIRE").arg(&own).arg(millis(NODE_LEASE))).await?;
                return Err(refusal);
            }
            connection.query::<u64>(cmd("HSET").arg(&key).arg(&self.node).arg("")).await?;
            connection.query(cmd("PEXPIRE").arg(&key).arg(millis(NODE_LIST_TTL))).await
        })
    }
}

impl Core {
    /// Adds this node to the list of nodes, before its first heartbeat.
    pub(super) async fn announce_node(&self, connection: &Connection) {
        let (own, mut command) = (self.keys.node(&self.node), cmd("SET"));
        let Ok(sealed) = self.guard.seal(Purpose::Status, &own, b"{}", NODE_LEASE) else { return };
        command.arg(&own).arg(sealed).arg("NX").arg("PX").arg(millis(NODE_LEASE));
        // If this fails, the next heartbeat adds it.
        let _ = connection.query::<Option<String>>(&command).await;
    }
}

/// The nodes that are alive, each with the status of its last heartbeat.
pub async fn nodes(config: &RedisConfig) -> Result<Vec<(String, Vec<u8>)>, RedisError> {
    let failed = |error: redis::RedisError| RedisError(error.to_string());
    let (keys, guard) = (Keys::new(&config.prefix), Guard::new(&config.cluster_key, config.unauthenticated));
    let mut connection = Server::new(config).map_err(failed)?.connect(|_| ()).await.map_err(failed)?;
    let key = keys.nodes();
    let known: Vec<String> = cmd("HKEYS").arg(&key).query_async(&mut connection).await.map_err(failed)?;
    let mut found = Vec::new();
    for node in known {
        let name = keys.node(&node);
        let status = cmd("GET").arg(&name).query_async::<Option<Vec<u8>>>(&mut connection).await;
        match status.map_err(failed)? {
            // A node that is not one of ours has no status.
            Some(status) => {
                if let Ok(status) = guard.open(Purpose::Status, &name, status) {
                    found.push((node, status.into()));
                }
            }
            None => {
                let _: u64 = cmd("HDEL").arg(&key).arg(&node).query_async(&mut connection).await.map_err(failed)?;
            }
        }
    }
    found.sort();
    Ok(found)
}
