//! Subscriber tokens: signed JWTs of the configured issuers (RFC 7519, RFC 8725, RFC 9068).
//!
//! `jsonwebtoken` verifies signatures; form and claims of a token are checked here. A token can cause requests to the
//! configured provider of its issuer only.

mod cache;
mod claims;
mod error;
mod header;
pub mod issuer_error;
mod json;
pub mod jwks;
mod key_set;
pub mod mint;
mod verify;

#[cfg(test)]
mod tests;

use jsonwebtoken::Algorithm;

pub use claims::{strings, whole_seconds};
pub use error::{Part, TokenError};
pub use header::is_access_token_type;
pub use issuer_error::{IssuerError, IssuerProblem, MetadataError, ReplaceError};
pub use jwks::discovery::{ProviderMetadata, discovery_endpoint};
pub use jwks::document::read_key_set;
pub use jwks::{KeySource, Remote};
pub use key_set::{SkippedKey, Unusable};
pub use mint::{MintError, MintingKey, TokenRequest};
pub use verify::Issuers;

/// A configured issuer, whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// Compared with `iss`, exactly.
    pub issuer: String,
    /// `aud` must contain one of these.
    pub audiences: Vec<String>,
    /// Holds the audience of tokens without `aud`: a claim's name, or a JSON Pointer.
    pub audience_claim: String,
    /// Holds the groups: a claim's name, or a JSON Pointer.
    pub groups_claim: String,
    /// Source of the issuer's public keys (RFC 7517).
    pub keys: KeySource,
    /// Age since the last confirmation from which keys are rejected; 0 = never.
    pub keys_max_age_secs: u64,
    /// Asymmetric algorithms only.
    pub algorithms: Vec<Algorithm>,
    /// Required `typ` header; `None` accepts `at+jwt`, `JWT` and an absent one.
    pub typ: Option<String>,
    /// Accepted difference between clocks, for admission only.
    pub leeway_secs: u64,
    /// Longest time from `iat` (or now) to `exp`.
    pub max_lifetime_secs: u64,
}
