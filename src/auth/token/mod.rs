//! Subscriber tokens: signed JWTs of the configured issuers (RFC 7519, RFC 8725, RFC 9068).
//!
//! Signatures are `jsonwebtoken`'s work; what a token must look like and say is decided here. Nothing is fetched.

mod cache;
mod claims;
mod error;
mod header;
mod json;
mod key_set;
pub mod mint;
mod verify;

#[cfg(test)]
mod tests;

use jsonwebtoken::{Algorithm, jwk::JwkSet};

pub use error::{Part, TokenError};
pub use key_set::{SkippedKey, Unusable};
pub use mint::{MintError, MintingKey, TokenRequest};
pub use verify::{IssuerError, IssuerProblem, Issuers, ReplaceError};

/// One issuer whose tokens are accepted, as the configuration gives it.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// Compared with `iss`, exactly.
    pub issuer: String,
    /// `aud` must hold one of these.
    pub audiences: Vec<String>,
    /// The public keys that sign for this issuer (RFC 7517).
    pub keys: JwkSet,
    /// Asymmetric algorithms only.
    pub algorithms: Vec<Algorithm>,
    /// The `typ` header must be this; `None` accepts `at+jwt`, `JWT` and none at all.
    pub typ: Option<String>,
    /// Allowed difference between clocks, for admission only.
    pub leeway_secs: u64,
    /// Longest time from `iat` (or now) to `exp`.
    pub max_lifetime_secs: u64,
}
