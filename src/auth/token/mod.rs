//! Subscriber tokens: signed JWTs of the configured issuers (RFC 7519, RFC 8725, RFC 9068).
//!
//! Signatures are `jsonwebtoken`'s work; what a token must look like and say is decided here. No token causes a
//! connection but to its own issuer's provider, as the configuration names it.

mod cache;
mod claims;
mod error;
mod header;
pub mod issuer_error;
mod json;
pub mod jwks;
mod key_set;
pub mod mint;
mod unproven;
mod verify;

#[cfg(test)]
mod tests;

use jsonwebtoken::Algorithm;

pub use error::{Part, TokenError};
pub use issuer_error::{IssuerError, IssuerProblem, MetadataError, ReplaceError};
pub use jwks::discovery::{ProviderMetadata, discovery_endpoint};
pub use jwks::document::read_key_set;
pub use jwks::{KeySource, Remote};
pub use key_set::{SkippedKey, Unusable};
pub use mint::{MintError, MintingKey, TokenRequest};
pub use unproven::Unproven;
pub use verify::Issuers;

/// One issuer whose tokens are accepted, as the configuration gives it.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// Compared with `iss`, exactly.
    pub issuer: String,
    /// `aud` must hold one of these.
    pub audiences: Vec<String>,
    /// Where the public keys come from that sign for this issuer (RFC 7517).
    pub keys: KeySource,
    /// Time after which keys that nobody confirmed count no more; 0 = never.
    pub keys_max_age_secs: u64,
    /// Asymmetric algorithms only.
    pub algorithms: Vec<Algorithm>,
    /// The `typ` header must be this; `None` accepts `at+jwt`, `JWT` and none at all.
    pub typ: Option<String>,
    /// Allowed difference between clocks, for admission only.
    pub leeway_secs: u64,
    /// Longest time from `iat` (or now) to `exp`.
    pub max_lifetime_secs: u64,
}
