//! What every request handler shares.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;

use super::config::{RoomsConfig, TransportLimits};
use super::control::Control;
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
use crate::cluster::rooms::ClusterRooms;
use crate::geo::GeoDb;
use crate::ops::{Lifecycle, Statsd};

pub struct AppState {
    pub limits: TransportLimits,
    /// Channels that one connection may subscribe to.
    pub max_subscriptions: usize,
    /// The limits of every connection that has no others.
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
            max_subscriptions: self.max_subscriptions,
        }
    }
}
