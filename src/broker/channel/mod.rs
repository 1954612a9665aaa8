//! Channels: rules, the hub and its fan-out, deliveries, sessions, presence.

pub mod claim_pattern;
pub mod delivery;
pub mod fanout;
pub mod hub;
pub mod presence;
pub mod rules;
pub mod session;
pub mod subscriptions;
