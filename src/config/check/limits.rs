//! Counts, bytes and seconds: limits, the drain, and the helpers for all numbers.

use std::time::Duration;

use ipnet::IpNet;

use crate::broker::{ConnectionLimits, ReplyLimits};
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings;
use crate::config::{DrainConfig, Limits};
use crate::engine::MemoryLimits;
use crate::transport::config::TransportLimits;
use crate::transport::publish::idempotency::IdempotencyLimits;

/// Bounds keep sums of limits far from the ends of the integers, and times within what a clock can hold.
const MAX_COUNT: u64 = u32::MAX as u64;
const MAX_BYTES: u64 = 1 << 40;
const MAX_SECS: u64 = 10 * 366 * 24 * 3600;

/// Below this the HTTP library refuses to work.
const MIN_HEADER_BYTES: u64 = 8192;

pub fn check(limits: settings::Limits, trusted_proxies: Vec<IpNet>, report: &mut Report) -> Limits {
    let settings::Limits {
        max_connections,
        max_connections_per_address,
        handshake_secs,
        max_header_bytes,
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
    let mut numbers = Numbers::new(Path::of("limits"), report);
    Limits {
        transport: TransportLimits {
            max_connections: numbers.count("max_connections", max_connections, 1),
            max_connections_per_address: numbers.count("max_connections_per_address", max_connections_per_address, 0),
            handshake: numbers.secs("handshake_secs", handshake_secs, 1),
            max_header_bytes: numbers.size("max_header_bytes", max_header_bytes, MIN_HEADER_BYTES),
            hello: numbers.secs("hello_secs", hello_secs, 1),
            max_command_bytes: numbers.size("max_command_bytes", max_command_bytes, 1),
            max_commands_per_second: numbers.small("max_commands_per_second", max_commands_per_second, 1),
            max_fragments: numbers.small("max_fragments", max_fragments, 1),
            max_batch_bytes: numbers.size("max_batch_bytes", max_batch_bytes, 1),
            max_batch_messages: numbers.places("max_batch_messages", max_batch_messages),
            trusted_proxies,
        },
        connection: ConnectionLimits {
            outbox_bytes: numbers.size("outbox_bytes", outbox_bytes, 1),
            outbox_frames: numbers.places("outbox_frames", outbox_frames),
            stall: numbers.secs("outbox_stall_secs", outbox_stall_secs, 1),
            close: numbers.secs("close_secs", close_secs, 1),
            ping: numbers.secs("ping_secs", ping_secs, 1),
            pong: numbers.secs("pong_secs", pong_secs, 1),
            close_silent_without_ping: None,
        },
        memory: MemoryLimits {
            max_channels: numbers.places("max_channels", max_channels),
            idle: numbers.secs("channel_idle_secs", channel_idle_secs, 1),
            max_backlog_bytes: numbers.size("max_backlog_bytes", max_backlog_bytes, 1),
        },
        idempotency: IdempotencyLimits {
            max_keys: numbers.places("idempotency_keys", idempotency_keys),
            keep: numbers.secs("idempotency_secs", idempotency_secs, 1),
        },
        replies: ReplyLimits {
            max_replies: numbers.places("max_replies", max_replies),
            max_replies_per_connection: numbers.places("max_replies_per_connection", max_replies_per_connection),
            max_bytes: numbers.size("max_reply_bytes", max_reply_bytes, 1),
            keep: numbers.secs("reply_secs", reply_secs, 1),
        },
        max_subscriptions: numbers.places("max_subscriptions", max_subscriptions),
        max_replay_nonces: numbers.places("replay_nonces", replay_nonces),
        max_revocations: numbers.places("revocations", revocations),
        max_tickets: numbers.places("tickets", tickets),
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

/// Checks the numbers of one table. Each method takes the least value that makes sense and gives the value back,
/// also a wrong one.
pub struct Numbers<'a> {
    table: Path,
    report: &'a mut Report,
}

impl<'a> Numbers<'a> {
    pub fn new(table: Path, report: &'a mut Report) -> Self {
        Self { table, report }
    }

    pub fn wrong(&mut self, key: &str, value: u64, right: impl std::fmt::Display) {
        self.report.wrong(&self.table.key(key), value, right);
    }

    pub fn count(&mut self, key: &str, value: u64, least: u64) -> u64 {
        self.within(key, value, least, MAX_COUNT)
    }

    pub fn bytes(&mut self, key: &str, value: u64, least: u64) -> u64 {
        self.within(key, value, least, MAX_BYTES)
    }

    pub fn secs(&mut self, key: &str, value: u64, least: u64) -> Duration {
        Duration::from_secs(self.within(key, value, least, MAX_SECS))
    }

    pub fn small(&mut self, key: &str, value: u64, least: u64) -> u32 {
        u32::try_from(self.count(key, value, least)).unwrap_or(u32::MAX)
    }

    /// A count of at least one, of things in memory.
    pub fn places(&mut self, key: &str, value: u64) -> usize {
        usize::try_from(self.count(key, value, 1)).unwrap_or(usize::MAX)
    }

    /// Bytes in memory.
    pub fn size(&mut self, key: &str, value: u64, least: u64) -> usize {
        usize::try_from(self.bytes(key, value, least)).unwrap_or(usize::MAX)
    }

    fn within(&mut self, key: &str, value: u64, least: u64, most: u64) -> u64 {
        if value < least {
            self.wrong(key, value, format_args!("must be at least {least}"));
        } else if value > most {
            self.wrong(key, value, format_args!("must be at most {most}"));
        }
        value
    }
}
