//! The identity of a subscriber that a token proved.

use serde::Deserialize;

/// Who a subscriber is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Principal {
    /// Who vouches for it.
    pub issuer: String,
    /// Who it is there.
    pub subject: String,
}
