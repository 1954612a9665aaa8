//! Publishers: the whitelist and the signatures that prove a request comes from one of them.
//!
//! A request is checked in three steps: [`Whitelist::verify`] on its head, the caller's own rules (the channel, the
//! rate), and [`Verified::accept`] with its body. Only then is its nonce used up.

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
pub use signature::MAX_SKEW_SECS;
pub use signature_base::RequestHead;
pub use verify::Verified;
pub use whitelist::{DuplicateKey, Publisher, Whitelist};

use super::keys::Fingerprint;
use crate::protocol::Pattern;

/// One entry of the whitelist, as the configuration gives it.
#[derive(Clone, Debug)]
pub struct PublisherConfig {
    pub name: String,
    /// What its signatures are checked with; `None` for a publisher that has a password alone.
    pub key: Option<PublisherKey>,
    /// How a client of the flock dialect may publish in its name.
    pub basic: Option<BasicConfig>,
    /// What it may create and publish to.
    pub channels: Vec<Pattern>,
    /// Whether it may push keys of issuers, channel rules and revocations.
    pub control: bool,
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

impl PublisherKey {
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Known(key) => Fingerprint::of(key),
            Self::Hash(fingerprint) => *fingerprint,
        }
    }
}
