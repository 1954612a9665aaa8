//! Login sessions: the content of the session cookie, and its principal.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::active::{Active, ProviderConfig};
use super::claims::IdToken;
use super::error::LoginError;
use super::provider::random;
use crate::auth::seal::{Purpose, Unsealable};
use crate::broker::{ChannelRules, Principal, claim};

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
    /// The groups of the subject that rules named at the time of login.
    #[serde(rename = "g", skip_serializing_if = "Vec::is_empty", default)]
    groups: Vec<String>,
    /// Digest of the groups that rules named then, if the subject has others.
    #[serde(rename = "m", skip_serializing_if = "Option::is_none", default)]
    named_groups: Option<String>,
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
    /// A new session for the subject of `token`. Keeps only claims and groups that rules use: a cookie is small, and
    /// people may have hundreds of groups.
    pub fn begin(
        login: &Active,
        provider: &ProviderConfig,
        token: IdToken,
        scopes: Vec<String>,
        rules: &ChannelRules,
        now: u64,
    ) -> Self {
        let IdToken { subject, session, issued, groups, claims } = token;
        let used_claims = rules.claims();
        let kept = used_claims.iter().filter(|name| !RESERVED_CLAIMS.contains(name));
        let kept = kept.map(|name| ((*name).to_owned(), claim(&claims, name).cloned().unwrap_or_default())).collect();
        let named = rules.groups();
        let (groups, others): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| named.contains(&**group));
        Self {
            issuer: provider.issuer.clone(),
            subject,
            id: random(),
            provider_session: session,
            scopes,
            groups,
            named_groups: (!others.is_empty()).then(|| digest(&named)),
            claims: kept,
            issued,
            expires: now.saturating_add(login.session_secs()),
        }
    }

    /// Whether it has every claim and group that rules use now. An older session without one could bypass a denial.
    pub fn is_complete(&self, rules: &ChannelRules) -> bool {
        rules.claims().iter().all(|name| RESERVED_CLAIMS.contains(name) || self.claims.contains_key(*name))
            && self.named_groups.as_ref().is_none_or(|before| *before == digest(&rules.groups()))
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

/// Ninety-six bits suffice: the names are the operator's own.
fn digest(groups: &BTreeSet<&str>) -> String {
    let mut digest = Sha256::new();
    for group in groups {
        digest.update((group.len() as u64).to_be_bytes());
        digest.update(group.as_bytes());
    }
    URL_SAFE_NO_PAD.encode(&digest.finalize()[..12])
}

/// Claims that are fields of the session.
const RESERVED_CLAIMS: [&str; 4] = ["sub", "jti", "iat", "sid"];
