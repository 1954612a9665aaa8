//! What every request handler shares.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;

use super::config::Limits;
use super::problem::Refusals;
use super::publish::idempotency::Idempotency;
use super::registry::Registry;
use crate::auth::{GeoDb, Policy};
use crate::broker::session::Channels;
use crate::broker::{ConnectionLimits, Engine};
use crate::ops::{Lifecycle, Statsd};

pub struct App {
    pub limits: Limits,
    /// The part of the limits that every connection carries.
    pub connection_limits: Arc<ConnectionLimits>,
    pub policy: Policy,
    pub engine: Arc<dyn Engine>,
    pub idempotency: Idempotency,
    pub registry: Arc<Registry>,
    pub lifecycle: Lifecycle,
    pub refusals: Refusals,
    pub metrics: PrometheusHandle,
    /// Where peers of rooms are, if that is on.
    pub places: Option<GeoDb>,
    pub statsd: Statsd,
    /// Serves the demonstration page.
    pub demo: bool,
}

impl App {
    /// What a subscriber's session needs.
    pub fn channels(&self) -> Channels {
        Channels {
            engine: self.engine.clone(),
            rules: self.policy.rules().clone(),
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
        }
    }
}
