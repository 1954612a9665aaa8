//! `[limits]`: bounds of the whole gateway.

use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub max_connections: u64,
    pub max_connections_per_address: u64,
    pub handshake_secs: u64,
    pub max_header_bytes: u64,
    pub hello_secs: u64,
    pub max_command_bytes: u64,
    pub max_commands_per_second: u64,
    pub max_fragments: u64,
    pub max_subscriptions: u64,
    pub max_batch_bytes: u64,
    pub max_batch_messages: u64,
    pub outbox_bytes: u64,
    pub outbox_frames: u64,
    pub outbox_stall_secs: u64,
    pub close_secs: u64,
    pub ping_secs: u64,
    pub pong_secs: u64,
    pub max_channels: u64,
    pub channel_idle_secs: u64,
    pub max_backlog_bytes: u64,
    pub replay_nonces: u64,
    pub idempotency_keys: u64,
    pub idempotency_secs: u64,
    pub reply_secs: u64,
    pub max_replies: u64,
    pub max_replies_per_connection: u64,
    pub max_reply_bytes: u64,
    pub revocations: u64,
    pub tickets: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 100_000,
            max_connections_per_address: 0,
            handshake_secs: 10,
            max_header_bytes: 16_384,
            hello_secs: 10,
            max_command_bytes: 65_536,
            max_commands_per_second: 100,
            max_fragments: 1_024,
            max_subscriptions: 1_000,
            max_batch_bytes: 4_194_304,
            max_batch_messages: 1_000,
            outbox_bytes: 1_048_576,
            outbox_frames: 16_384,
            outbox_stall_secs: 15,
            close_secs: 30,
            ping_secs: 25,
            pong_secs: 10,
            max_channels: 100_000,
            channel_idle_secs: 3_600,
            max_backlog_bytes: 268_435_456,
            replay_nonces: 500_000,
            idempotency_keys: 10_000,
            idempotency_secs: 600,
            reply_secs: 30,
            max_replies: 1_000,
            max_replies_per_connection: 16,
            max_reply_bytes: 1_048_576,
            revocations: 100_000,
            tickets: 10_000,
        }
    }
}
