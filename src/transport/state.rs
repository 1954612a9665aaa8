//! What every request handler shares.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;

use super::config::{Limits, RoomsConfig};
use super::control::Control;
use super::credential::tickets::Tickets;
use super::http::problem::Refusals;
use super::publish::idempotency::Idempotency;
use crate::auth::fetch::Fetcher;
use crate::auth::login::Login;
use crate::auth::publisher::PasswordVerifier;
use crate::auth::{GeoDb, Policy, Revocation, RevocationError};
use crate::broker::channel::session::SessionContext;
use crate::broker::connection::registry::Registry;
use crate::broker::room::Rooms;
use crate::broker::{ConnectionLimits, Engine, Hub, Now, Replies};
use crate::cluster::rooms::ClusterRooms;
use crate::ops::{Lifecycle, Statsd};

pub struct AppState {
    pub limits: Limits,
    /// The part of the limits that every connection carries.
    pub connection_limits: Arc<ConnectionLimits>,
    /// The same for subscribers of the flock dialect.
    pub flock_connection_limits: Arc<ConnectionLimits>,
    /// Checks passwords of publishers.
    pub basic: PasswordVerifier,
    pub rooms_config: RoomsConfig,
    /// The same for peers of rooms.
    pub room_connection_limits: Arc<ConnectionLimits>,
    pub rooms: Rooms,
    /// Rooms of other nodes; `None` where there are none.
    pub elsewhere: Option<Arc<ClusterRooms>>,
    pub policy: Policy,
    pub login: Login,
    /// The only way out over HTTP; `None` beside `egress = "none"`.
    pub fetcher: Option<Arc<Fetcher>>,
    pub engine: Arc<dyn Engine>,
    pub hub: Hub,
    pub replies: Replies,
    pub idempotency: Idempotency,
    pub registry: Arc<Registry>,
    pub lifecycle: Lifecycle,
    pub refusals: Refusals,
    pub control: Control,
    pub tickets: Tickets,
    pub metrics: PrometheusHandle,
    /// Where peers of rooms are, if that is on.
    pub places: Option<GeoDb>,
    pub statsd: Statsd,
    /// Serves the demonstration page.
    pub demo: bool,
}

impl AppState {
    /// Takes something back: the connections that it ends are closed within a second.
    pub fn revoke(&self, revocation: Revocation) -> Result<(), RevocationError> {
        self.policy.revoke(revocation, Now::read().unix())?;
        self.registry.wake_all();
        Ok(())
    }

    /// What a subscriber's session needs.
    pub fn channels(&self) -> SessionContext {
        SessionContext {
            engine: self.engine.clone(),
            rules: self.policy.rules().clone(),
            replies: self.replies.clone(),
            max_subscriptions: self.limits.max_subscriptions,
        }
    }
}

impl From<&Limits> for ConnectionLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            outbox_bytes: limits.outbox_bytes,
            outbox_frames: limits.outbox_frames,
            stall: limits.outbox_stall,
            close: limits.close,
            ping: limits.ping,
            pong: limits.pong,
            close_silent_without_ping: None,
        }
    }
}

impl RoomsConfig {
    /// The limits of a peer's connection: those of all connections, with the heartbeat of rooms.
    pub fn connection_limits(&self, limits: &Limits) -> ConnectionLimits {
        let (ping, pong) = if self.client_timeout.is_zero() {
            (self.heartbeat, Duration::MAX)
        } else {
            let second = Duration::from_secs(1);
            let ping = self.heartbeat.min(self.client_timeout.saturating_sub(second)).max(second);
            // The sweep that finds the peer silent is up to a second after the last sign of life.
            (ping, self.client_timeout.saturating_sub(ping + second))
        };
        ConnectionLimits { ping, pong, ..limits.into() }
    }
}
