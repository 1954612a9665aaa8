//! Publishers: the whitelist and the signatures that prove a request comes from one of them.

use ed25519_dalek::VerifyingKey;

use super::keys::Fingerprint;
use crate::protocol::Pattern;

/// One entry of the whitelist, as the configuration gives it.
#[derive(Clone, Debug)]
pub struct PublisherConfig {
    pub name: String,
    pub key: PublisherKey,
    /// What it may create and publish to.
    pub channels: Vec<Pattern>,
    /// The key is refused from this moment on.
    pub not_after: Option<jiff::Timestamp>,
    /// Publications per second with a burst of the same size; `None` for no limit.
    pub rate_limit_per_second: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublisherKey {
    Known(VerifyingKey),
    /// The gateway knows the fingerprint alone; each request carries the key.
    Hash(Fingerprint),
}
