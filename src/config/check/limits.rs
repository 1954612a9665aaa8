//! The tables `limits` and `drain`.

use ipnet::IpNet;

use super::numbers::Numbers;
use crate::broker::{ConnectionLimits, ReplyLimits};
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings;
use crate::config::{DrainConfig, Limits};
use crate::engine::{MemoryLimits, WaitingLimits};
use crate::transport::config::TransportLimits;
use crate::transport::publish::idempotency::IdempotencyLimits;

/// Entries beside the tickets in a shared store in memory: the pushed rules, their tag, and key sets of issuers.
const MAX_STORED_PUSHES: usize = 1024;

/// The least that hyper accepts.
const MIN_HEADER_BYTES: u64 = 8192;

/// A token of a single person without groups.
const MIN_TOKEN_BYTES: u64 = 1024;

/// Bytes of a request head or a `hello` without its token.
const BESIDE_TOKEN_BYTES: u64 = 8192;

/// A limit that holds a token: the default grows with `max_token_bytes`, and an own value gets a warning.
fn room_for_token(key: &str, limit: u64, max_token_bytes: u64, report: &mut Report) -> u64 {
    let path = Path::of("limits").key(key);
    let needed = max_token_bytes.saturating_add(BESIDE_TOKEN_BYTES);
    if !report.origins.is_set(&path) {
        return limit.max(needed);
    }
    if limit < needed {
        report.warn(&path, format_args!("{limit} has no room for tokens of max_token_bytes ({max_token_bytes})"));
    }
    limit
}

pub fn check(limits: settings::Limits, trusted_proxies: Vec<IpNet>, report: &mut Report) -> Limits {
    let settings::Limits {
        max_connections,
        max_connections_per_address,
        handshake_secs,
        max_header_bytes,
        max_token_bytes,
        hello_secs,
        max_command_bytes,
        max_commands_per_second,
        max_fragments,
        max_subscriptions,
        max_batch_bytes,
        max_batch_messages,
        outbox_bytes,
        outbox_frames,
        outbox_stall_secs,
        close_secs,
        ping_secs,
        pong_secs,
        max_channels,
        max_waiting_names,
        max_waiting_names_per_holder,
        channel_idle_secs,
        max_backlog_bytes,
        replay_nonces,
        idempotency_keys,
        idempotency_secs,
        reply_secs,
        max_replies,
        max_replies_per_connection,
        max_reply_bytes,
        revocations,
        tickets,
    } = limits;
    let max_header_bytes = room_for_token("max_header_bytes", max_header_bytes, max_token_bytes, report);
    let max_command_bytes = room_for_token("max_command_bytes", max_command_bytes, max_token_bytes, report);
    let mut numbers = Numbers::new(Path::of("limits"), report);
    Limits {
        transport: TransportLimits {
            max_connections: numbers.count("max_connections", max_connections, 1),
            max_connections_per_address: numbers.count("max_connections_per_address", max_connections_per_address, 0),
            handshake: numbers.secs("handshake_secs", handshake_secs, 1),
            max_header_bytes: numbers.byte_size("max_header_bytes", max_header_bytes, MIN_HEADER_BYTES),
            max_token_bytes: numbers.byte_size("max_token_bytes", max_token_bytes, MIN_TOKEN_BYTES),
            hello: numbers.secs("hello_secs", hello_secs, 1),
            max_command_bytes: numbers.byte_size("max_command_bytes", max_command_bytes, 1),
            max_commands_per_second: numbers.u32("max_commands_per_second", max_commands_per_second, 1),
            max_fragments: numbers.u32("max_fragments", max_fragments, 1),
            max_batch_bytes: numbers.byte_size("max_batch_bytes", max_batch_bytes, 1),
            max_batch_messages: numbers.usize_min1("max_batch_messages", max_batch_messages),
            trusted_proxies,
        },
        connection: ConnectionLimits {
            outbox_bytes: numbers.byte_size("outbox_bytes", outbox_bytes, 1),
            outbox_frames: numbers.usize_min1("outbox_frames", outbox_frames),
            stall: numbers.secs("outbox_stall_secs", outbox_stall_secs, 1),
            close: numbers.secs("close_secs", close_secs, 1),
            ping: numbers.secs("ping_secs", ping_secs, 1),
            pong: numbers.secs("pong_secs", pong_secs, 1),
            close_silent_without_ping: None,
        },
        memory: MemoryLimits {
            max_channels: numbers.usize_min1("max_channels", max_channels),
            waiting: WaitingLimits {
                max_names: numbers.usize_min1("max_waiting_names", max_waiting_names),
                max_names_per_holder: numbers.usize_min1("max_waiting_names_per_holder", max_waiting_names_per_holder),
            },
            idle: numbers.secs("channel_idle_secs", channel_idle_secs, 1),
            max_backlog_bytes: numbers.byte_size("max_backlog_bytes", max_backlog_bytes, 1),
            max_store_entries: usize::try_from(tickets).unwrap_or(usize::MAX).saturating_add(MAX_STORED_PUSHES),
        },
        idempotency: IdempotencyLimits {
            max_keys: numbers.usize_min1("idempotency_keys", idempotency_keys),
            keep: numbers.secs("idempotency_secs", idempotency_secs, 1),
        },
        replies: ReplyLimits {
            max_replies: numbers.usize_min1("max_replies", max_replies),
            max_replies_per_connection: numbers.usize_min1("max_replies_per_connection", max_replies_per_connection),
            max_bytes: numbers.byte_size("max_reply_bytes", max_reply_bytes, 1),
            keep: numbers.secs("reply_secs", reply_secs, 1),
        },
        max_subscriptions: numbers.usize_min1("max_subscriptions", max_subscriptions),
        max_replay_nonces: numbers.usize_min1("replay_nonces", replay_nonces),
        max_revocations: numbers.usize_min1("revocations", revocations),
        max_tickets: numbers.usize_min1("tickets", tickets),
    }
}

pub fn check_drain(drain: settings::Drain, report: &mut Report) -> DrainConfig {
    let settings::Drain { window_secs, deadline_secs } = drain;
    let mut numbers = Numbers::new(Path::of("drain"), report);
    if window_secs >= deadline_secs {
        numbers.wrong("window_secs", window_secs, format_args!("must be less than deadline_secs, {deadline_secs}"));
    }
    DrainConfig {
        window: numbers.secs("window_secs", window_secs, 0),
        deadline: numbers.secs("deadline_secs", deadline_secs, 1),
    }
}
