//! A subscriber whose token was checked.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Who a subscriber is and what its issuer vouches for. Identity is `(issuer, subject)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Principal {
    pub issuer: Arc<str>,
    pub subject: Arc<str>,
    /// The words of the `scope` claim (RFC 8693 section 4.2), or of a `scp` list.
    pub scopes: Vec<String>,
    /// The members of the `groups` claim.
    pub groups: Vec<String>,
    /// Every claim of the token, for rules that ask for one.
    pub claims: Map<String, Value>,
    /// `exp`, in seconds since 1970. A live connection ends then.
    pub expires: u64,
}

impl Principal {
    /// `iat`, in seconds since 1970; 0 for one that is not dated, so that it counts as old.
    pub fn issued(&self) -> u64 {
        self.claims.get("iat").and_then(Value::as_u64).unwrap_or(0)
    }
}
