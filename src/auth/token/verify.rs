//! From a token to the principal it proves. Every failure is a [`TokenError`].

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::JwkSet;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::IssuerConfig;
use super::cache::{TokenDigest, Verified};
use super::claims::{Accepted, Rules, required_string};
use super::error::TokenError;
use super::header::Unverified;
use super::issuer_error::{IssuerError, IssuerProblem, MetadataError, ReplaceError};
use super::jwks::discovery::ProviderMetadata;
use super::jwks::metrics::JwksMetrics;
use super::jwks::refresh::Background;
use super::jwks::{JwksCache, KeySource, Remote};
use super::key_set::{SkippedKey, is_asymmetric};
use crate::auth::fetch::Fetcher;
use crate::broker::Principal;

/// Bytes of a token; checked before anything else is done with it.
pub const MAX_TOKEN: usize = 8 * 1024;
/// Tokens remembered as verified.
const REMEMBERED: usize = 10_000;

/// The issuers of one configuration. A reload makes a new value, and with it forgets what was verified.
pub struct Issuers {
    by_name: HashMap<Arc<str>, Issuer>,
    verified: Verified,
}

/// Keys belong to their issuer, so that two issuers with the same `kid` never mix.
struct Issuer {
    ring: Arc<JwksCache>,
    algorithms: Vec<Algorithm>,
    typ: Option<String>,
    rules: Rules,
    /// Since [`Issuers::start`].
    upkeep: Option<Arc<Upkeep>>,
}

/// What goes on around a ring for as long as it is used.
struct Upkeep {
    gauges: JwksMetrics,
    /// If its keys are fetched.
    _renewal: Option<Background>,
}

impl Issuers {
    /// Reads every key once. An empty list accepts no token. Nothing is fetched before [`Issuers::start`].
    pub fn new(configs: Vec<IssuerConfig>) -> Result<Self, IssuerError> {
        Self::build(configs, &HashMap::new())
    }

    /// The issuers of another configuration. Fetched and pushed keys stay where the source of the keys is the same.
    pub fn rebuild(&self, configs: Vec<IssuerConfig>) -> Result<Self, IssuerError> {
        Self::build(configs, &self.by_name)
    }

    /// Begins to fetch and to measure. Needs a tokio runtime; without a fetcher, remote keys never come.
    pub fn start(&mut self, fetcher: Option<&Arc<Fetcher>>) {
        for issuer in self.by_name.values_mut().filter(|issuer| issuer.upkeep.is_none()) {
            let remote = match &issuer.ring.source {
                KeySource::Remote(remote) => Some(remote.clone()),
                KeySource::File { .. } => None,
            };
            let renewal = fetcher
                .zip(remote)
                .map(|(fetcher, remote)| Background::start(issuer.ring.clone(), remote, fetcher.clone()));
            let gauges = JwksMetrics::new(&issuer.ring.issuer);
            issuer.upkeep = Some(Arc::new(Upkeep { gauges, _renewal: renewal }));
        }
    }

    /// Who the bearer of `token` is; `now` in seconds since 1970.
    ///
    /// The issuer's leeway counts for this admission only: a session ends at [`Principal::expires`].
    pub fn verify(&self, token: &str, now: u64) -> Result<Arc<Principal>, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let digest = TokenDigest::of(token);
        if let Some((principal, keys)) = self.verified.get(&digest, now)
            && self.are_in_force(&principal.issuer, keys, now)
        {
            return Ok(principal);
        }
        let token = Unverified::parse(token)?;
        let issuer = self.issuer_of(&token)?;
        let keys = issuer.check(&token, now)?;
        let Accepted { principal, admitted } = issuer.rules.check(token.claims, now)?;
        let principal = Arc::new(principal);
        self.verified.insert(digest, principal.clone(), keys, admitted);
        Ok(principal)
    }

    /// As [`Issuers::verify`]; a token with a key that is not known yet waits for one fetch of its issuer's keys.
    pub async fn admit(&self, token: &str, now: u64) -> Result<Arc<Principal>, TokenError> {
        match self.verify(token, now) {
            Err(error) if error.is_about_keys() => {
                self.issuer_of(&Unverified::parse(token)?)?.ring.demand.wait().await;
                self.verify(token, now)
            }
            verdict => verdict,
        }
    }

    /// The `typ` and the claims of a token that `issuer` signed, be it for access, an identity or a logout. None of
    /// the claims is checked, not even `iss`. Waits as [`Issuers::admit`] does.
    pub async fn signed(
        &self,
        issuer: &str,
        token: &str,
        now: u64,
    ) -> Result<(Option<String>, Map<String, Value>), TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let token = Unverified::parse(token)?;
        let issuer = self.by_name.get(issuer).ok_or(TokenError::IssuerUnknown)?;
        match issuer.check_signature(&token, now) {
            Err(error) if error.is_about_keys() => {
                issuer.ring.demand.wait().await;
                issuer.check_signature(&token, now)?;
            }
            verdict => drop(verdict?),
        }
        Ok((token.header.typ, token.claims))
    }

    /// What an issuer with `discovery = true` says of itself; waits for the first answer.
    pub async fn metadata(&self, issuer: &str) -> Result<Arc<ProviderMetadata>, MetadataError> {
        let ring = &self.by_name.get(issuer).ok_or(MetadataError::IssuerUnknown)?.ring;
        if !matches!(ring.source, KeySource::Remote(Remote::Discovery(_))) {
            return Err(MetadataError::NoDiscovery);
        }
        if ring.provider.load().is_none() {
            ring.demand.wait().await;
        }
        ring.provider.load_full().ok_or(MetadataError::Unavailable)
    }

    /// Puts pushed keys in force for an issuer with a `jwks_file`, until the file changes or the process ends. `pushed`
    /// in seconds since 1970.
    pub fn replace_keys(&self, issuer: &str, keys: JwkSet, pushed: u64) -> Result<(), ReplaceError> {
        let (ring, _) = self.filed(issuer)?;
        ring.put(keys, pushed).map_err(ReplaceError::Unusable)
    }

    /// Whether [`Issuers::replace_keys`] would take these keys. Gives a digest of what stands in the issuer's file.
    pub fn check_keys(&self, issuer: &str, keys: &JwkSet) -> Result<String, ReplaceError> {
        let (ring, file) = self.filed(issuer)?;
        ring.usable(keys).map_err(ReplaceError::Unusable)?;
        // Of what was read of it, so that nodes may have it with other blanks.
        let file = serde_json::to_vec(file).unwrap_or_default();
        Ok(URL_SAFE_NO_PAD.encode(Sha256::digest(file)))
    }

    /// The ring of an issuer with a `jwks_file`, and the keys in that.
    fn filed(&self, issuer: &str) -> Result<(&JwksCache, &JwkSet), ReplaceError> {
        let ring = &self.by_name.get(issuer).ok_or(ReplaceError::IssuerUnknown)?.ring;
        match &ring.source {
            KeySource::Remote(_) => Err(ReplaceError::Fetched),
            KeySource::File { keys, .. } => Ok((ring, keys)),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_name.keys()
    }

    /// Whether this issuer may vouch for anybody.
    pub fn knows(&self, issuer: &str) -> bool {
        self.by_name.contains_key(issuer)
    }

    /// Seconds that a token of any of them may be alive, from its `iat` to the end of its leeway.
    pub fn longest_lifetime(&self) -> u64 {
        let lifetime = |issuer: &Issuer| issuer.rules.max_lifetime_secs.saturating_add(issuer.rules.leeway_secs);
        self.by_name.values().map(lifetime).max().unwrap_or(0)
    }

    /// The keys that were skipped, with the issuer's name.
    pub fn skipped_keys(&self) -> Vec<(Arc<str>, SkippedKey)> {
        let rings = self.by_name.values().map(|issuer| &issuer.ring);
        let sets = rings.filter_map(|ring| Some((ring.issuer.clone(), ring.latest()?)));
        sets.flat_map(|(name, keys)| keys.set.skipped.clone().into_iter().map(move |key| (name.clone(), key))).collect()
    }

    /// Measures how old keys are; `now` in seconds since 1970.
    pub fn sweep(&self, now: u64) {
        for issuer in self.by_name.values() {
            if let Some(upkeep) = &issuer.upkeep {
                upkeep.gauges.update(&issuer.ring, now);
            }
        }
    }

    fn build(configs: Vec<IssuerConfig>, before: &HashMap<Arc<str>, Issuer>) -> Result<Self, IssuerError> {
        let mut by_name = HashMap::with_capacity(configs.len());
        for config in configs {
            let name: Arc<str> = config.issuer.as_str().into();
            let failed = |problem| IssuerError { issuer: name.to_string(), problem };
            let issuer = Issuer::new(config, name.clone(), before.get(&name)).map_err(failed)?;
            if by_name.insert(name.clone(), issuer).is_some() {
                return Err(failed(IssuerProblem::Duplicate));
            }
        }
        Ok(Self { by_name, verified: Verified::new(REMEMBERED) })
    }

    /// Unproven as yet, `iss` only chooses among what is configured.
    fn issuer_of(&self, token: &Unverified<'_>) -> Result<&Issuer, TokenError> {
        let name = required_string(&token.claims, "iss")?;
        self.by_name.get(name).ok_or(TokenError::IssuerUnknown)
    }

    /// Whether what these keys verified still counts.
    fn are_in_force(&self, issuer: &str, keys: u64, now: u64) -> bool {
        let ring = self.by_name.get(issuer).map(|issuer| &issuer.ring);
        ring.is_some_and(|ring| ring.keys(now).is_ok_and(|current| current.generation == keys))
    }
}

impl Issuer {
    fn new(config: IssuerConfig, name: Arc<str>, before: Option<&Issuer>) -> Result<Self, IssuerProblem> {
        let IssuerConfig {
            issuer: _,
            audiences,
            keys,
            keys_max_age_secs,
            algorithms,
            typ,
            leeway_secs,
            max_lifetime_secs,
        } = config;
        if name.is_empty() {
            return Err(IssuerProblem::NoIssuer);
        }
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            return Err(IssuerProblem::NoAudience);
        }
        if algorithms.is_empty() {
            return Err(IssuerProblem::NoAlgorithm);
        }
        if let Some(symmetric) = algorithms.iter().find(|algorithm| !is_asymmetric(**algorithm)) {
            return Err(IssuerProblem::SymmetricAlgorithm(*symmetric));
        }
        let ring_before = before.map(|before| &before.ring);
        let ring = JwksCache::new(name.clone(), keys, algorithms.clone(), keys_max_age_secs, ring_before)?;
        let same = before.filter(|before| Arc::ptr_eq(&before.ring, &ring));
        let upkeep = same.and_then(|before| before.upkeep.clone());
        let rules = Rules { issuer: name, audiences, leeway_secs, max_lifetime_secs };
        Ok(Self { ring, algorithms, typ, rules, upkeep })
    }

    /// Whether an access token is this issuer's; gives the generation of the keys.
    fn check(&self, token: &Unverified<'_>, now: u64) -> Result<u64, TokenError> {
        if !token.header.has_typ(self.typ.as_deref()) {
            return Err(TokenError::TypNotAllowed);
        }
        self.check_signature(token, now)
    }

    fn check_signature(&self, token: &Unverified<'_>, now: u64) -> Result<u64, TokenError> {
        let algorithm = token.header.algorithm;
        if !self.algorithms.contains(&algorithm) {
            return Err(TokenError::AlgorithmNotAllowed);
        }
        let keys = self.ring.keys(now)?;
        let key = keys.set.find(token.header.key_id.as_deref(), algorithm)?;
        match jsonwebtoken::crypto::verify(token.signature, token.signed.as_bytes(), &key.decoding, algorithm) {
            Ok(true) => Ok(keys.generation),
            Ok(false) | Err(_) => Err(TokenError::SignatureInvalid),
        }
    }
}

impl fmt::Debug for Issuers {
    /// Names alone: the cache holds people's claims.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}
