//! `[[issuers]]` and `[login]`: identity providers.

use serde::{Deserialize, Serialize};

use super::one_or_many::OneOrMany;

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Issuer {
    pub issuer: Option<String>,
    pub audience: Option<OneOrMany>,
    pub jwks_file: Option<String>,
    pub jwks_url: Option<String>,
    pub discovery: bool,
    pub jwks_max_age_secs: Option<u64>,
    pub algorithms: Vec<String>,
    pub typ: Option<String>,
    pub leeway_secs: u64,
    pub max_lifetime_secs: u64,
    pub channels: Option<Vec<String>>,
    pub login: Option<IssuerLogin>,
}

impl Default for Issuer {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: None,
            jwks_file: None,
            jwks_url: None,
            discovery: false,
            jwks_max_age_secs: None,
            algorithms: ["ES256", "EdDSA", "RS256"].map(str::to_owned).into(),
            typ: None,
            leeway_secs: 30,
            max_lifetime_secs: 86_400,
            channels: None,
            login: None,
        }
    }
}

/// The gateway's registration as a client of the issuer, for logins.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssuerLogin {
    pub client_id: Option<String>,
    pub client_secret_file: Option<String>,
    pub scopes: Vec<String>,
    pub name: Option<String>,
}

impl Default for IssuerLogin {
    fn default() -> Self {
        Self { client_id: None, client_secret_file: None, scopes: vec!["openid".to_owned()], name: None }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Login {
    pub url: Option<String>,
    pub seal_keys: Vec<String>,
    pub session_secs: u64,
}

impl Default for Login {
    fn default() -> Self {
        Self { url: None, seal_keys: Vec::new(), session_secs: 28_800 }
    }
}
