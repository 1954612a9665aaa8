//! State that request handlers share.

use std::sync::Arc;

use metrics::Counter;
use metrics_exporter_prometheus::PrometheusHandle;

use super::config::{RoomsConfig, TransportLimits};
use super::control::ControlCounters;
use super::credential::tickets::Tickets;
use super::http::problem::Refusals;
use super::publish::idempotency::Idempotency;
use crate::auth::fetch::Fetcher;
use crate::auth::login::Login;
use crate::auth::publisher::PasswordVerifier;
use crate::auth::{Policy, Revocation, RevocationError};
use crate::broker::channel::session::SessionContext;
use crate::broker::connection::registry::Registry;
use crate::broker::room::Rooms;
use crate::broker::{ConnectionLimits, Engine, Hub, Now, Replies};
use crate::cluster::pushed_policy::PolicySync;
use crate::cluster::rooms::ClusterRooms;
use crate::geo::GeoDb;
use crate::ops::{Lifecycle, Statsd};

pub struct AppState {
    pub limits: TransportLimits,
    /// Channels that one connection may subscribe to.
    pub max_subscriptions: usize,
    /// The limits of subscribers and publishers.
    pub connection_limits: Arc<ConnectionLimits>,
    /// The limits of subscribers of the `flock` protocol.
    pub flock_connection_limits: Arc<ConnectionLimits>,
    pub passwords: PasswordVerifier,
    pub rooms_config: RoomsConfig,
    /// The limits of room peers.
    pub room_connection_limits: Arc<ConnectionLimits>,
    pub rooms: Rooms,
    /// `None` if the engine connects no nodes.
    pub cluster_rooms: Option<Arc<ClusterRooms>>,
    pub policy: Arc<Policy>,
    pub policy_sync: Arc<PolicySync>,
    pub login: Login,
    /// The only client for outgoing HTTP; `None` with `egress = "none"`.
    pub fetcher: Option<Arc<Fetcher>>,
    pub engine: Arc<dyn Engine>,
    pub hub: Hub,
    pub replies: Replies,
    pub idempotency: Idempotency,
    pub registry: Arc<Registry>,
    pub lifecycle: Arc<Lifecycle>,
    /// `lastmile_log_lines_dropped_total`, which belongs to the process.
    pub dropped_log_lines: Counter,
    pub refusals: Refusals,
    pub control_counters: ControlCounters,
    pub tickets: Tickets,
    pub metrics: PrometheusHandle,
    /// Locations of room peers, if configured.
    pub geo: Option<GeoDb>,
    pub statsd: Statsd,
    /// Whether the demo page is served.
    pub demo: bool,
}

impl AppState {
    /// Revokes tokens. The connections that use them are closed within a second.
    pub fn revoke(&self, revocation: Revocation) -> Result<(), RevocationError> {
        self.policy.revoke(revocation, Now::read().unix())?;
        self.registry.wake_all();
        Ok(())
    }

    /// [`AppState::revoke`] for what a user does. A part of the revocations is left to operators.
    pub fn revoke_for_user(&self, revocation: Revocation) -> Result<(), RevocationError> {
        self.policy.revocations().check_users_part(&revocation, Now::read().unix())?;
        self.revoke(revocation)
    }

    /// The parts that a subscriber's session uses.
    pub fn channels(&self) -> SessionContext {
        SessionContext {
            engine: self.engine.clone(),
            rules: self.policy.rules().clone(),
            replies: self.replies.clone(),
            max_subscriptions: self.max_subscriptions,
        }
    }
}
