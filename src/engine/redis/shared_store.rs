//! The shared store in Redis: keys with a prefix of their own, a stream as log, and the list of nodes.

use std::time::Duration;

use bytes::Bytes;
use redis::cmd;
use redis::streams::{StreamId, StreamRangeReply};

use super::connection::Connection;
use super::core::Core;
use super::keys::{Keys, SCRIPTS};
use super::server::{RedisConfig, RedisError, Server};
use crate::broker::SharedStore;
use crate::broker::engine::EngineFuture;
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

impl SharedStore for Core {
    fn has_other_nodes(&self) -> bool {
        true
    }

    fn connection_epoch(&self) -> Result<u64, Refusal> {
        Ok(self.connection()?.number)
    }

    fn set_if_absent<'a>(&'a self, name: &'a str, value: &'a [u8], ttl: Duration) -> EngineFuture<'a, bool> {
        Box::pin(async move {
            let mut command = cmd("SET");
            command.arg(self.keys.shared(name)).arg(value).arg("NX").arg("PX").arg(millis(ttl));
            Ok(self.connection()?.query::<Option<String>>(&command).await?.is_some())
        })
    }

    fn set<'a>(&'a self, name: &'a str, value: &'a [u8], ttl: Duration) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            let mut command = cmd("SET");
            command.arg(self.keys.shared(name)).arg(value).arg("PX").arg(millis(ttl));
            self.connection()?.query(&command).await
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> EngineFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            let value: Option<Vec<u8>> = self.connection()?.query(cmd("GET").arg(self.keys.shared(name))).await?;
            Ok(value.map(Bytes::from))
        })
    }

    fn get_and_delete<'a>(&'a self, name: &'a str) -> EngineFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            let value: Option<Vec<u8>> = self.connection()?.query(cmd("GETDEL").arg(self.keys.shared(name))).await?;
            Ok(value.map(Bytes::from))
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
            let mut claim = SCRIPTS.claim.key(self.keys.shared(name));
            claim.arg(value).arg(instead_of.unwrap_or(value)).arg(millis(ttl));
            self.connection()?.invoke(&claim).await
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
            let mut release = SCRIPTS.release.key(self.keys.shared(name));
            release.arg(value);
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
            command.arg(&key).arg("MAXLEN").arg("~").arg(MAX_LOG_ENTRIES).arg("*").arg("w").arg(entry);
            connection.query::<String>(&command).await?;
            connection.query(cmd("PEXPIRE").arg(&key).arg(millis(LOG_TTL))).await
        })
    }

    fn read_log<'a>(&'a self, after: &'a str) -> EngineFuture<'a, Vec<(String, Bytes)>> {
        Box::pin(async move {
            let from = if after.is_empty() { "-".to_owned() } else { format!("({after}") };
            let mut command = cmd("XRANGE");
            command.arg(self.keys.broadcast_log()).arg(from).arg("+").arg("COUNT").arg(LOG_PAGE);
            let page: StreamRangeReply = self.connection()?.query(&command).await?;
            let entry = |row: StreamId| (row.get::<Vec<u8>>("w").unwrap_or_default().into(), row.id);
            Ok(page.ids.into_iter().map(entry).map(|(entry, id)| (id, entry)).collect())
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
            let mut command = cmd("SET");
            command.arg(self.keys.node(&self.node)).arg(status).arg("PX").arg(millis(NODE_LEASE));
            if let Err(refusal) = connection.query::<String>(&command).await {
                // A full Redis accepts no new value, but still extends the lease of the one that it has.
                connection.query::<u64>(cmd("PEXPIRE").arg(self.keys.node(&self.node)).arg(millis(NODE_LEASE))).await?;
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
        let mut command = cmd("SET");
        command.arg(self.keys.node(&self.node)).arg("{}").arg("NX").arg("PX").arg(millis(NODE_LEASE));
        // If this fails, the next heartbeat adds it.
        let _ = connection.query::<Option<String>>(&command).await;
    }
}

/// The nodes that are alive, each with the status of its last heartbeat.
pub async fn nodes(config: &RedisConfig) -> Result<Vec<(String, Vec<u8>)>, RedisError> {
    let failed = |error: redis::RedisError| RedisError(error.to_string());
    let keys = Keys::new(&config.prefix);
    let mut connection = Server::new(config).map_err(failed)?.connect(|_| ()).await.map_err(failed)?;
    let key = keys.nodes();
    let known: Vec<String> = cmd("HKEYS").arg(&key).query_async(&mut connection).await.map_err(failed)?;
    let mut found = Vec::new();
    for node in known {
        let status = cmd("GET").arg(keys.node(&node)).query_async::<Option<Vec<u8>>>(&mut connection).await;
        match status.map_err(failed)? {
            Some(status) => found.push((node, status)),
            None => {
                let _: u64 = cmd("HDEL").arg(&key).arg(&node).query_async(&mut connection).await.map_err(failed)?;
            }
        }
    }
    found.sort();
    Ok(found)
}
