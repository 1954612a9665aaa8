//! The identity of a subscriber that a token proved.

use serde::Deserialize;

/// The identity of a subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Principal {
    /// Issuer of the token (`iss`).
    pub issuer: String,
    /// Subject of the token (`sub`).
    pub subject: String,
}
