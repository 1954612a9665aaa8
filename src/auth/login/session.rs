//! The session after a login: what its cookie says, and the principal that it makes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Active, IdToken, LoginError, ProviderConfig, provider::random};
use crate::auth::seal::{Purpose, Unsealable};
use crate::broker::Principal;

/// Characters of the sealed value: with name and attributes a cookie must stay under 4096 bytes.
const MAX_VALUE: usize = 3900;

/// Short names, because it all goes into a cookie. No `Debug`: it holds a person's claims.
#[derive(Serialize, Deserialize)]
pub struct LoginSession {
    #[serde(rename = "i")]
    pub issuer: String,
    #[serde(rename = "u")]
    pub subject: String,
    /// 256 random bits, new with each login; revoked as the `jti` of its principal.
    #[serde(rename = "n")]
    pub id: String,
    /// The provider's own session, by which it logs people out.
    #[serde(rename = "s", skip_serializing_if = "Option::is_none")]
    pub provider_session: Option<String>,
    #[serde(rename = "o", skip_serializing_if = "Vec::is_empty", default)]
    scopes: Vec<String>,
    #[serde(rename = "g", skip_serializing_if = "Vec::is_empty", default)]
    groups: Vec<String>,
    /// Those that rules asked for at the login, `null` for what the person lacks.
    #[serde(rename = "c", skip_serializing_if = "Map::is_empty", default)]
    claims: Map<String, Value>,
    /// By the provider's clock, like the logout that may end it.
    #[serde(rename = "t")]
    pub issued: u64,
    #[serde(rename = "e")]
    pub expires: u64,
}

impl LoginSession {
    /// A new session of who `token` says; keeps the claims in `asked` alone.
    pub fn begin(
        login: &Active,
        provider: &ProviderConfig,
        token: IdToken,
        scopes: Vec<String>,
        asked: &BTreeSet<&str>,
        now: u64,
    ) -> Self {
        let IdToken { subject, session, issued, groups, mut claims } = token;
        let kept = asked.iter().filter(|name| !RESERVED.contains(name));
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

    /// Whether it knows all that rules look at now. One from before a rule that asks for more could pass by a denial.
    pub fn answers(&self, asked: &BTreeSet<&str>) -> bool {
        asked.iter().all(|name| RESERVED.contains(name) || self.claims.contains_key(*name))
    }

    pub fn seal(&self, login: &Active) -> Result<String, LoginError> {
        let text = serde_json::to_vec(self).map_err(|_| LoginError::TooLarge(0))?;
        let sealed = login.sealer().seal(Purpose::Session, &text, self.expires)?;
        if sealed.len() > MAX_VALUE { Err(LoginError::TooLarge(sealed.len())) } else { Ok(sealed) }
    }

    pub fn open(login: &Active, sealed: &str, now: u64) -> Result<Self, Unsealable> {
        let opened = login.sealer().open(Purpose::Session, sealed, now)?;
        serde_json::from_slice(&opened).map_err(|_| Unsealable::NotOurs)
    }

    /// Who this is, in the form in which rules and revocations look at everybody.
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

/// Claims with a place of their own.
const RESERVED: [&str; 4] = ["sub", "jti", "iat", "sid"];
