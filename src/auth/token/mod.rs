//! Subscriber tokens: signed JWTs of the configured issuers.

use jsonwebtoken::{Algorithm, jwk::JwkSet};

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
