//! The authenticated identity of a subscriber.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Identity and claims from a verified token. The identity is `(issuer, subject)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Principal {
    pub issuer: Arc<str>,
    pub subject: Arc<str>,
    /// Values of the `scope` claim (RFC 8693 section 4.2), or of a `scp` list.
    pub scopes: Vec<String>,
    /// The members of the `groups` claim.
    pub groups: Vec<String>,
    /// All claims of the token, for rules that require one.
    pub claims: Map<String, Value>,
    /// `exp`, in seconds since 1970. A live connection ends then.
    pub expires: u64,
}

impl Principal {
    /// `iat`, in seconds since 1970. 0 without it: revocations treat such a token as old.
    pub fn issued(&self) -> u64 {
        self.claims.get("iat").and_then(Value::as_u64).unwrap_or(0)
    }
}
