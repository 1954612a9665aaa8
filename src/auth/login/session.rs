//! Login sessions: the content of the session cookie, and its principal.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::active::{Active, ProviderConfig};
use super::claims::IdToken;
use super::error::LoginError;
use super::provider::random;
use crate::auth::seal::{Purpose, Unsealable};
use crate::broker::Principal;

/// Longest sealed value, in bytes: a cookie with name and attributes must stay under 4096 bytes.
const MAX_SESSION_VALUE_BYTES: usize = 3900;

/// Content of the session cookie, with short names to save bytes. No `Debug`: it holds personal claims.
#[derive(Serialize, Deserialize)]
pub struct LoginSession {
    #[serde(rename = "i")]
    pub issuer: String,
    #[serde(rename = "u")]
    pub subject: String,
    /// 256 random bits, new with each login. The `jti` of the principal, for revocation.
    #[serde(rename = "n")]
    pub id: String,
    /// The provider's session, to which its logout tokens refer.
    #[serde(rename = "s", skip_serializing_if = "Option::is_none")]
    pub provider_session: Option<String>,
    #[serde(rename = "o", skip_serializing_if = "Vec::is_empty", default)]
    scopes: Vec<String>,
    #[serde(rename = "g", skip_serializing_if = "Vec::is_empty", default)]
    groups: Vec<String>,
    /// The claims that rules used at the time of login; `null` for absent ones.
    #[serde(rename = "c", skip_serializing_if = "Map::is_empty", default)]
    claims: Map<String, Value>,
    /// By the provider's clock, as `iat` of a logout token is.
    #[serde(rename = "t")]
    pub issued: u64,
    #[serde(rename = "e")]
    pub expires: u64,
}

impl LoginSession {
    /// A new session for the subject of `token`. Keeps only claims that rules use (`used_claims`).
    pub fn begin(
        login: &Active,
        provider: &ProviderConfig,
        token: IdToken,
        scopes: Vec<String>,
        used_claims: &BTreeSet<&str>,
        now: u64,
    ) -> Self {
        let IdToken { subject, session, issued, groups, mut claims } = token;
        let kept = used_claims.iter().filter(|name| !RESERVED_CLAIMS.contains(name));
        let claims = kept.map(|name| ((*name).to_owned(), claims.remove(*name).unwrap_or_default())).collect();
        Self {
            issuer: provider.issuer.clone(),
            subject,
            id: random(),
            provider_session: session,
            scopes,
            groups,
            claims,
            issued,
            expires: now.saturating_add(login.session_secs()),
        }
    }

    /// Whether it has every claim that rules use now. An older session without one could bypass a denial.
    pub fn has_claims(&self, used_claims: &BTreeSet<&str>) -> bool {
        used_claims.iter().all(|name| RESERVED_CLAIMS.contains(name) || self.claims.contains_key(*name))
    }

    pub fn seal(&self, login: &Active) -> Result<String, LoginError> {
        let text = serde_json::to_vec(self).map_err(|_| LoginError::TooLarge(0))?;
        let sealed = login.sealer().seal(Purpose::Session, &text, self.expires)?;
        if sealed.len() > MAX_SESSION_VALUE_BYTES { Err(LoginError::TooLarge(sealed.len())) } else { Ok(sealed) }
    }

    pub fn open(login: &Active, sealed: &str, now: u64) -> Result<Self, Unsealable> {
        let opened = login.sealer().open(Purpose::Session, sealed, now)?;
        serde_json::from_slice(&opened).map_err(|_| Unsealable::NotOurs)
    }

    /// The principal for rules and revocations.
    pub fn principal(&self) -> Principal {
        let mut claims = self.claims.clone();
        claims.insert("sub".to_owned(), self.subject.clone().into());
        claims.insert("jti".to_owned(), self.id.clone().into());
        claims.insert("iat".to_owned(), self.issued.into());
        if let Some(session) = &self.provider_session {
            claims.insert("sid".to_owned(), session.clone().into());
        }
        Principal {
            issuer: self.issuer.as_str().into(),
            subject: self.subject.as_str().into(),
            scopes: self.scopes.clone(),
            groups: self.groups.clone(),
            claims,
            expires: self.expires,
        }
    }
}

/// Claims that are fields of the session.
const RESERVED_CLAIMS: [&str; 4] = ["sub", "jti", "iat", "sid"];
