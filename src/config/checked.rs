//! The checked configuration of a gateway.

use std::time::Duration;

use crate::auth::fetch::FetchConfig;
use crate::auth::login::LoginConfig;
use crate::auth::{IssuerConfig, PublisherConfig, Revocation};
use crate::broker::{ConnectionLimits, ReplyLimits};
use crate::cluster::pushed_policy::WrittenRules;
use crate::engine::{DiskConfig, MemoryLimits, RedisConfig};
use crate::geo::GeoConfig;
use crate::ops::config::{LogConfig, StatsdConfig};
use crate::transport::config::{ListenerConfig, RoomsConfig, TransportLimits};
use crate::transport::publish::idempotency::IdempotencyLimits;

#[derive(Clone, Debug)]
pub struct Config {
    pub egress: Egress,
    pub engine: EngineConfig,
    /// Connections to identity providers; `None` with [`Egress::None`].
    pub fetch: Option<FetchConfig>,
    pub listeners: Vec<ListenerConfig>,
    pub limits: Limits,
    pub rooms: RoomsConfig,
    /// `None` if `rooms.geoip` is off.
    pub geoip: Option<GeoConfig>,
    /// `None` without `statsd.host`.
    pub statsd: Option<StatsdConfig>,
    pub drain: DrainConfig,
    pub log: LogConfig,
    pub policy: PolicyConfig,
}

impl Config {
    /// Whether a restart forgets which signatures were used.
    pub fn forgets_signatures(&self) -> bool {
        self.engine == (EngineConfig::Memory { ledger: None })
            && self.policy.publishers.iter().any(|publisher| publisher.key.is_some())
    }
}

/// The table `limits`: one part for each module that enforces it.
#[derive(Clone, Debug)]
pub struct Limits {
    pub transport: TransportLimits,
    pub connection: ConnectionLimits,
    pub memory: MemoryLimits,
    pub idempotency: IdempotencyLimits,
    pub replies: ReplyLimits,
    /// Per connection.
    pub max_subscriptions: usize,
    /// Per publisher.
    pub max_replay_nonces: usize,
    pub max_revocations: usize,
    /// Tickets that are not redeemed yet.
    pub max_tickets: usize,
}

/// The engine, which orders publications and keeps the backlog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineConfig {
    Memory {
        /// Keeps what a restart must not forget, without publications.
        ledger: Option<DiskConfig>,
    },
    Disk(DiskConfig),
    Redis(RedisConfig),
}

/// Connections that the gateway may open. It never opens one to a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// Only to hosts that the configuration names.
    Configured,
    None,
}

/// The part that a reload replaces.
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    pub publishers: Vec<PublisherConfig>,
    pub issuers: Vec<IssuerConfig>,
    pub channels: WrittenRules,
    /// Revocations of `revocations_file`.
    pub revocations: Vec<Revocation>,
    /// `None` if no issuer has `login`.
    pub login: Option<LoginConfig>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainConfig {
    /// Closes are spread over this time, so that clients do not reconnect in one wave.
    pub window: Duration,
    /// The process ends after this time, even with open connections.
    pub deadline: Duration,
}
