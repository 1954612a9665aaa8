//! Control requests on the role `publish`: push issuer keys and channel rules, and revoke tokens.
//!
//! Only whitelisted keys with `control = true` may send them. They need no outgoing connection of the gateway.
//! Pushed policy survives a reload of files. With the memory engine it ends with the process.

mod handlers;

pub use handlers::{channels, jwks, revocations};

use metrics::{Counter, counter};

/// `lastmile_control_changes_total{what}`.
pub struct ControlCounters {
    jwks: Counter,
    channels: Counter,
    revocations: Counter,
}

impl Default for ControlCounters {
    /// Registers them with the current recorder.
    fn default() -> Self {
        let counter = |what| counter!("lastmile_control_changes_total", "what" => what);
        Self { jwks: counter("jwks"), channels: counter("channels"), revocations: counter("revocations") }
    }
}
