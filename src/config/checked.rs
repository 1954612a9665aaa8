//! The checked configuration: what a gateway is told, once every setting made sense.

use std::time::Duration;

use crate::auth::fetch::FetchConfig;
use crate::auth::login::LoginConfig;
use crate::auth::{GeoConfig, IssuerConfig, PublisherConfig, Revocation};
use crate::broker::{ConnectionLimits, ReplyLimits};
use crate::engine::{DiskConfig, MemoryLimits, RedisConfig};
use crate::ops::config::{LogConfig, StatsdConfig};
use crate::transport::config::{ListenerConfig, RoomsConfig, TransportLimits};
use crate::transport::control::WrittenRules;
use crate::transport::publish::idempotency::IdempotencyLimits;

/// Everything that a gateway is told.
#[derive(Clone, Debug)]
pub struct Config {
    pub egress: Egress,
    pub engine: EngineConfig,
    /// How identity providers are reached; `None` beside [`Egress::None`].
    pub fetch: Option<FetchConfig>,
    pub listeners: Vec<ListenerConfig>,
    pub limits: Limits,
    pub rooms: RoomsConfig,
    /// If places are on.
    pub geoip: Option<GeoConfig>,
    /// If it is on.
    pub statsd: Option<StatsdConfig>,
    pub drain: DrainConfig,
    pub log: LogConfig,
    pub policy: PolicyConfig,
}

/// The table `limits`, one part for each module that enforces it.
#[derive(Clone, Debug)]
pub struct Limits {
    pub transport: TransportLimits,
    pub connection: ConnectionLimits,
    pub memory: MemoryLimits,
    pub idempotency: IdempotencyLimits,
    pub replies: ReplyLimits,
    /// Channels of one connection.
    pub max_subscriptions: usize,
    /// Nonces remembered for one publisher.
    pub max_replay_nonces: usize,
    /// Revocations remembered at once.
    pub max_revocations: usize,
    /// Unused tickets.
    pub max_tickets: usize,
}

/// What orders publications and keeps the backlog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineConfig {
    Memory,
    Disk(DiskConfig),
    Redis(RedisConfig),
}

/// Which connections the gateway may open itself. It never opens one to a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// Those that the configuration names.
    Configured,
    /// None at all.
    None,
}

/// The part that a reload replaces.
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    pub publishers: Vec<PublisherConfig>,
    pub issuers: Vec<IssuerConfig>,
    pub channels: WrittenRules,
    /// Those of the file.
    pub revocations: Vec<Revocation>,
    /// If people can log in.
    pub login: Option<LoginConfig>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainConfig {
    /// Closes are spread over this time, so that clients do not come back in one wave.
    pub window: Duration,
    /// The process ends after this time, whatever is still open.
    pub deadline: Duration,
}
