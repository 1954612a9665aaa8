//! What may happen once on any node, as keys of Redis: nonces, tickets, answers to retries.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::cmd;
use redis::streams::{StreamId, StreamRangeReply};

use super::connection::Connection;
use super::keys::{Keys, SCRIPTS};
use super::server::{RedisConfig, RedisError, Server};
use super::{Core, millis};
use crate::broker::SharedStore;
use crate::protocol::Refusal;

/// Words for all nodes that are kept.
const MAX_LOG_ENTRIES: usize = 100_000;
const LOG_PAGE: usize = 1000;

/// A node counts as present for so long, and is not remembered after that.
const NODE_LEASE: Duration = Duration::from_secs(10);
const NODE_LIST_TTL: Duration = Duration::from_secs(24 * 60 * 60);

impl SharedStore for Core {
    fn connection_epoch(&self) -> Result<u64, Refusal> {
        Ok(self.link.session()?.number)
    }

    fn set_if_absent<'a>(
        &'a self,
        name: &'a str,
        value: &'a [u8],
        lives: Duration,
    ) -> BoxFuture<'a, Result<bool, Refusal>> {
        Box::pin(async move {
            let mut command = cmd("SET");
            command.arg(self.names.shared(name)).arg(value).arg("NX").arg("PX").arg(millis(lives));
            Ok(self.link.session()?.query::<Option<String>>(&command).await?.is_some())
        })
    }

    fn put<'a>(&'a self, name: &'a str, value: &'a [u8], lives: Duration) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let mut command = cmd("SET");
            command.arg(self.names.shared(name)).arg(value).arg("PX").arg(millis(lives));
            self.link.session()?.query(&command).await
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, Refusal>> {
        Box::pin(async move {
            let answer = self.link.session()?.query::<Option<Vec<u8>>>(cmd("GET").arg(self.names.shared(name))).await?;
            Ok(answer.map(Bytes::from))
        })
    }

    fn get_and_delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, Refusal>> {
        Box::pin(async move {
            let answer =
                self.link.session()?.query::<Option<Vec<u8>>>(cmd("GETDEL").arg(self.names.shared(name))).await?;
            Ok(answer.map(Bytes::from))
        })
    }

    fn claim<'a>(
        &'a self,
        name: &'a str,
        value: &'a str,
        instead_of: Option<&'a str>,
        lives: Duration,
    ) -> BoxFuture<'a, Result<String, Refusal>> {
        Box::pin(async move {
            let mut claim = SCRIPTS.claim.key(self.names.shared(name));
            claim.arg(value).arg(instead_of.unwrap_or(value)).arg(millis(lives));
            self.link.session()?.invoke(&claim).await
        })
    }

    fn increment<'a>(&'a self, name: &'a str, more: u32, lives: Duration) -> BoxFuture<'a, Result<u64, Refusal>> {
        Box::pin(async move {
            let mut count = SCRIPTS.count.key(self.names.shared(name));
            count.arg(more).arg(millis(lives));
            self.link.session()?.invoke(&count).await
        })
    }

    fn reserve<'a>(
        &'a self,
        name: &'a str,
        taken: u64,
        wanted: u64,
        limit: u64,
        lives: Duration,
    ) -> BoxFuture<'a, Result<u64, Refusal>> {
        Box::pin(async move {
            let mut gone = Vec::new();
            loop {
                let mut seats = SCRIPTS.reserve.key(self.names.shared(name));
                seats.arg(&self.node).arg(wanted).arg(limit).arg(millis(lives)).arg(taken).arg("").arg(&gone);
                let (places, _, others): (u64, u64, Vec<String>) = self.link.session()?.invoke(&seats).await?;
                if places >= wanted || !gone.is_empty() {
                    return Ok(places);
                }
                for other in others {
                    if !self.is_alive(&other).await? {
                        gone.push(other);
                    }
                }
                if gone.is_empty() {
                    return Ok(places);
                }
            }
        })
    }

    fn release<'a>(&'a self, name: &'a str, value: &'a str) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let mut release = SCRIPTS.release.key(self.names.shared(name));
            release.arg(value);
            self.link.session()?.invoke::<u64>(&release).await.map(drop)
        })
    }

    fn append_log<'a>(&'a self, word: &'a [u8], lives: Duration) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let (session, key) = (self.link.session()?, self.names.broadcast_log());
            let mut command = cmd("XADD");
            command.arg(&key).arg("MAXLEN").arg("~").arg(MAX_LOG_ENTRIES).arg("*").arg("w").arg(word);
            session.query::<String>(&command).await?;
            session.query(cmd("PEXPIRE").arg(&key).arg(millis(lives))).await
        })
    }

    fn read_log<'a>(&'a self, after: &'a str) -> BoxFuture<'a, Result<Vec<(String, Bytes)>, Refusal>> {
        Box::pin(async move {
            let from = if after.is_empty() { "-".to_owned() } else { format!("({after}") };
            let mut command = cmd("XRANGE");
            command.arg(self.names.broadcast_log()).arg(from).arg("+").arg("COUNT").arg(LOG_PAGE);
            let page: StreamRangeReply = self.link.session()?.query(&command).await?;
            let word = |row: StreamId| (row.get::<Vec<u8>>("w").unwrap_or_default().into(), row.id);
            Ok(page.ids.into_iter().map(word).map(|(word, id)| (id, word)).collect())
        })
    }

    fn is_alive<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<bool, Refusal>> {
        Box::pin(async move {
            let known = self.link.session()?.query::<u64>(cmd("EXISTS").arg(self.names.node(node))).await?;
            Ok(known == 1)
        })
    }

    fn deregister(&self) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            let session = self.link.session()?;
            session.query::<u64>(cmd("DEL").arg(self.names.node(&self.node))).await?;
            session.query::<u64>(cmd("HDEL").arg(self.names.nodes()).arg(&self.node)).await.map(drop)
        })
    }

    fn heartbeat<'a>(&'a self, about: &'a [u8]) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let (session, key) = (self.link.session()?, self.names.nodes());
            let mut command = cmd("SET");
            command.arg(self.names.node(&self.node)).arg(about).arg("PX").arg(millis(NODE_LEASE));
            if let Err(refusal) = session.query::<String>(&command).await {
                // A full Redis takes nothing new, and keeps what it has.
                session.query::<u64>(cmd("PEXPIRE").arg(self.names.node(&self.node)).arg(millis(NODE_LEASE))).await?;
                return Err(refusal);
            }
            session.query::<u64>(cmd("HSET").arg(&key).arg(&self.node).arg("")).await?;
            session.query(cmd("PEXPIRE").arg(&key).arg(millis(NODE_LIST_TTL))).await
        })
    }
}

impl Core {
    /// Says that this node is there, until it says more.
    pub(super) async fn appear(&self, session: &Connection) {
        let mut command = cmd("SET");
        command.arg(self.names.node(&self.node)).arg("{}").arg("NX").arg("PX").arg(millis(NODE_LEASE));
        // What fails is said again soon.
        let _ = session.query::<Option<String>>(&command).await;
    }
}

/// The nodes that are there, each with what it said about itself.
pub async fn nodes(config: &RedisConfig) -> Result<Vec<(String, Vec<u8>)>, RedisError> {
    let failed = |error: redis::RedisError| RedisError(error.to_string());
    let names = Keys::new(&config.prefix);
    let mut connection = Server::new(config).map_err(failed)?.connect(|_| ()).await.map_err(failed)?;
    let key = names.nodes();
    let known: Vec<String> = cmd("HKEYS").arg(&key).query_async(&mut connection).await.map_err(failed)?;
    let mut found = Vec::new();
    for node in known {
        let about = cmd("GET").arg(names.node(&node)).query_async::<Option<Vec<u8>>>(&mut connection).await;
        match about.map_err(failed)? {
            Some(about) => found.push((node, about)),
            None => {
                let _: u64 = cmd("HDEL").arg(&key).arg(&node).query_async(&mut connection).await.map_err(failed)?;
            }
        }
    }
    found.sort();
    Ok(found)
}
