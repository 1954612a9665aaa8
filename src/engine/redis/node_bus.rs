//! The node bus over Redis: each node subscribes to a pub/sub of its own name.
//!
//! Redis keeps no message, so each arrives at most once, and a response that is late counts as lost.

use std::time::Duration;

use bytes::Bytes;
use redis::cmd;
use tokio::sync::mpsc;

use super::connection::unavailable;
use super::core::Core;
use super::keys::SCRIPTS;
use super::message_router::{Envelope, RESPONSE_TOPIC};
use crate::broker::NodeBus;
use crate::broker::channel::presence::PRESENCE_LEASE;
use crate::broker::engine::EngineFuture;
use crate::broker::engine::node_bus::{NodeMessage, Topic};
use crate::engine::millis::millis;
use crate::protocol::{ChannelName, ErrorCode};

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The list of a publisher's nodes expires after this. Nodes that stopped earlier do not respond.
const PUBLISHER_LEASE: Duration = Duration::from_secs(30);

impl Core {
    /// Refuses with [`ErrorCode::NotFound`] if no node has that name.
    fn send_message(&self, node: &str, topic: u8, number: u64, bytes: &[u8]) -> EngineFuture<'static, ()> {
        let name = self.keys.node(node);
        let message = self.guard.seal_message(&name, Envelope { topic, number, from: &self.node, bytes }.write());
        let permit = message.as_ref().ok().and_then(|message| self.messages.reserve_outgoing(message.len()));
        let connection = self.connection();
        Box::pin(async move {
            let (message, _permit, connection) = (message?, permit.ok_or_else(unavailable)?, connection?);
            let receivers: u64 = connection.query(cmd(connection.publish()).arg(name).arg(message)).await?;
            // A Cluster counts only the subscribers of the server that it asked.
            if receivers == 0 && !connection.is_cluster() { Err(ErrorCode::NotFound.into()) } else { Ok(()) }
        })
    }
}

impl NodeBus for Core {
    fn node(&self) -> &str {
        &self.node
    }

    fn request(&self, node: &str, topic: Topic, bytes: &[u8]) -> EngineFuture<'static, Bytes> {
        let number = self.messages.next_number();
        let sent = self.send_message(node, topic as u8, number, bytes);
        let (pending, response) = self.messages.expect_response(number);
        Box::pin(async move {
            let _pending = pending;
            tokio::time::timeout(RESPONSE_TIMEOUT, async {
                sent.await?;
                response.await.map_err(|_| unavailable())
            })
            .await
            .unwrap_or_else(|_| Err(unavailable()))
        })
    }

    fn send(&self, node: &str, topic: Topic, bytes: &[u8]) -> EngineFuture<'static, ()> {
        self.send_message(node, topic as u8, 0, bytes)
    }

    fn respond(&self, message: NodeMessage, bytes: &[u8]) -> EngineFuture<'static, ()> {
        self.send_message(&message.from, RESPONSE_TOPIC, message.number, bytes)
    }

    fn subscribe(&self, topic: Topic) -> mpsc::UnboundedReceiver<NodeMessage> {
        self.messages.subscribe(topic)
    }

    fn register_publisher<'a>(&'a self, publisher: &'a str) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            let (connection, key) = (self.connection()?, self.keys.publisher(publisher));
            connection.query::<u64>(cmd("HSET").arg(&key).arg(&self.node).arg("")).await?;
            connection.query(cmd("PEXPIRE").arg(&key).arg(millis(PUBLISHER_LEASE))).await
        })
    }

    fn unregister_publisher<'a>(&'a self, publisher: &'a str, node: &'a str) -> EngineFuture<'a, ()> {
        Box::pin(async move {
            let key = self.keys.publisher(publisher);
            self.connection()?.query::<u64>(cmd("HDEL").arg(key).arg(node)).await.map(drop)
        })
    }

    fn watch_presence<'a>(&'a self, channel: &'a ChannelName) -> EngineFuture<'a, Vec<(String, u64)>> {
        Box::pin(async move {
            let (connection, keys) = (self.connection()?, &self.keys);
            let mut script = SCRIPTS.watch.prepare_invoke();
            script.key(keys.watch(channel)).key(keys.subscriber_quota(channel));
            script.arg(&self.node).arg(millis(PRESENCE_LEASE)).arg(keys.pubsub(channel)).arg(connection.publish());
            let counts = connection.invoke(&script).await?;
            // No node vouches for the counts in Redis; the nodes answer the request with their own.
            Ok(if self.guard.accepts_unauthenticated() { counts } else { Vec::new() })
        })
    }

    fn nodes_with_publisher<'a>(&'a self, publisher: &'a str) -> EngineFuture<'a, Vec<String>> {
        Box::pin(async move { self.connection()?.query(cmd("HKEYS").arg(self.keys.publisher(publisher))).await })
    }
}
