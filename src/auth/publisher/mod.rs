//! Publishers: the whitelist, and authentication by signature or password.
//!
//! A signed request is checked in three steps: [`Whitelist::verify`] for its head, the caller's rules (channel, rate),
//! and [`Verified::accept`] for its body. Only the last step consumes the nonce.

mod basic;
pub mod basic_auth;
mod digest;
mod replay;
mod signature;
pub mod signature_base;
#[cfg(test)]
mod tests;
mod verify;
mod whitelist;

use ed25519_dalek::VerifyingKey;

pub use basic::{BadHash, BasicConfig, PasswordHash};
pub use basic_auth::PasswordVerifier;
pub use signature::{MAX_SKEW_SECS, RECORDED_HEADERS};
pub use signature_base::{RequestHead, is_same_authority};
pub use verify::Verified;
pub use whitelist::{DuplicateKey, Publisher, Whitelist};

use super::keys::Fingerprint;
use crate::protocol::Pattern;

/// An entry of the whitelist in the configuration.
#[derive(Clone, Debug)]
pub struct PublisherConfig {
    pub name: String,
    /// Verifies its signatures; `None` for a publisher with a password only.
    pub key: Option<PublisherKey>,
    /// User name and password for flock clients.
    pub basic: Option<BasicConfig>,
    /// Channels that it may create and publish to.
    pub channels: Vec<Pattern>,
    /// Whether it may push issuer keys, channel rules and revocations.
    pub control: bool,
    /// The key is refused from this time on.
    pub not_after: Option<jiff::Timestamp>,
    /// Publications per second, with a burst of the same size; `None` for no limit.
    pub rate_limit_per_second: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublisherKey {
    Known(VerifyingKey),
    /// Only the fingerprint is configured; each request carries the key.
    Hash(Fingerprint),
}

impl PublisherKey {
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Known(key) => Fingerprint::of(key),
            Self::Hash(fingerprint) => *fingerprint,
        }
    }
}
