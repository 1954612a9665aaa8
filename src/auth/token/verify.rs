//! Verification of tokens: issuers, their keys, and the principals that tokens prove.

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
use super::cache::{TokenCache, TokenDigest};
use super::claims::{Accepted, ClaimRules, required_string};
use super::error::TokenError;
use super::header::{Header, Unverified};
use super::issuer_error::{IssuerError, IssuerProblem, MetadataError, ReplaceError};
use super::jwks::discovery::ProviderMetadata;
use super::jwks::metrics::JwksMetrics;
use super::jwks::refresh::Background;
use super::jwks::single_flight::{FetchGate, FetchOutcome};
use super::jwks::{JwksCache, KeySource, Remote};
use super::key_set::{Key, SkippedKey, is_asymmetric};
use crate::auth::fetch::Fetcher;
use crate::broker::Principal;
use crate::ops::Lifecycle;

/// Longest token without [`Issuers::with_max_token_bytes`]: room for the groups of large organizations.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Most verified tokens in the cache.
const MAX_CACHED_TOKENS: usize = 10_000;

/// The issuers of one configuration. A reload creates a new value with an empty token cache.
pub struct Issuers {
    by_name: HashMap<Arc<str>, Issuer>,
    verified: TokenCache,
    max_token_bytes: usize,
}

/// Each issuer has its own keys, so equal `kid`s of two issuers never mix.
struct Issuer {
    jwks: Arc<JwksCache>,
    algorithms: Vec<Algorithm>,
    typ: Option<String>,
    rules: ClaimRules,
    /// Set by [`Issuers::start`].
    background: Option<Arc<BackgroundWork>>,
}

/// Metrics and fetches of an issuer's keys. Ends with the last configuration that uses them.
struct BackgroundWork {
    metrics: JwksMetrics,
    /// Set if the keys are fetched.
    _refresh: Option<Background>,
}

impl Issuers {
    /// Parses all keys. An empty list accepts no token. [`Issuers::start`] starts the fetches.
    pub fn new(configs: Vec<IssuerConfig>) -> Result<Self, IssuerError> {
        Self::build(configs, &HashMap::new(), MAX_TOKEN_BYTES)
    }

    /// Sets the longest token, in bytes.
    pub fn with_max_token_bytes(self, max_token_bytes: usize) -> Self {
        Self { max_token_bytes, ..self }
    }

    /// The issuers of another configuration. Keeps fetched and pushed keys of issuers with the same key source.
    pub fn rebuild(&self, configs: Vec<IssuerConfig>) -> Result<Self, IssuerError> {
        Self::build(configs, &self.by_name, self.max_token_bytes)
    }

    /// Starts fetches and metrics. Needs a tokio runtime. Without a fetcher, remote keys are never fetched.
    pub fn start(&mut self, fetcher: Option<&Arc<Fetcher>>, lifecycle: &Arc<Lifecycle>) {
        for issuer in self.by_name.values_mut().filter(|issuer| issuer.background.is_none()) {
            let remote = match &issuer.jwks.source {
                KeySource::Remote(remote) => Some(remote.clone()),
                KeySource::File { .. } => None,
            };
            let refresh = fetcher
                .zip(remote)
                .map(|(fetcher, remote)| Background::start(issuer.jwks.clone(), remote, fetcher.clone(), lifecycle));
            let metrics = JwksMetrics::new(&issuer.jwks.issuer);
            issuer.background = Some(Arc::new(BackgroundWork { metrics, _refresh: refresh }));
        }
    }

    /// The principal that `token` proves; `now` in seconds since 1970.
    ///
    /// The issuer's leeway applies to this admission only: a session ends at [`Principal::expires`].
    pub fn verify(&self, token: &str, now: u64) -> Result<Arc<Principal>, TokenError> {
        // Before the digest, which reads the whole token.
        if token.len() > self.max_token_bytes {
            return Err(TokenError::TooLong);
        }
        let digest = TokenDigest::of(token);
        if let Some((principal, keys)) = self.verified.get(&digest, now)
            && self.are_in_force(&principal.issuer, keys, now)
        {
            return Ok(principal);
        }
        let token = self.parse(token)?;
        let issuer = self.issuer_of(&token)?;
        let keys = issuer.check(&token, now)?;
        let Accepted { principal, admitted } = issuer.rules.check(token.claims, now)?;
        let principal = Arc::new(principal);
        self.verified.insert(digest, principal.clone(), keys, admitted);
        Ok(principal)
    }

    /// Like [`Issuers::verify`], but a token with an unknown key waits for a fetch of its issuer's keys.
    pub async fn admit(&self, token: &str, now: u64) -> Result<Arc<Principal>, TokenError> {
        match self.verify(token, now) {
            Err(error) if error.is_about_keys() => {
                let unverified = self.parse(token)?;
                let fetch = self.issuer_of(&unverified)?.fetch_for(&unverified).await;
                self.verify(token, now).map_err(|error| fetch.explain(error))
            }
            result => result,
        }
    }

    /// `iss` of an unverified token. Use it only to select the keys that verify it.
    pub fn unverified_issuer(&self, token: &str) -> Result<String, TokenError> {
        Ok(required_string(&self.parse(token)?.claims, "iss")?.to_owned())
    }

    /// Header and claims of an access, ID or logout token with a signature of `issuer`. Checks no claim, not even `iss`.
    /// Waits like [`Issuers::admit`].
    pub async fn signed(
        &self,
        issuer: &str,
        token: &str,
        now: u64,
    ) -> Result<(Header, Map<String, Value>), TokenError> {
        let token = self.parse(token)?;
        let issuer = self.by_name.get(issuer).ok_or(TokenError::IssuerUnknown)?;
        match issuer.check_signature(&token, now) {
            Err(error) if error.is_about_keys() => {
                let fetch = issuer.fetch_for(&token).await;
                issuer.check_signature(&token, now).map_err(|error| fetch.explain(error))?;
            }
            result => drop(result?),
        }
        Ok((token.header, token.claims))
    }

    /// The discovery document of an issuer with `discovery = true`. Waits for the first fetch.
    pub async fn metadata(&self, issuer: &str) -> Result<Arc<ProviderMetadata>, MetadataError> {
        let jwks = &self.by_name.get(issuer).ok_or(MetadataError::IssuerUnknown)?.jwks;
        if !matches!(jwks.source, KeySource::Remote(Remote::Discovery(_))) {
            return Err(MetadataError::NoDiscovery);
        }
        if jwks.provider.load().is_none() {
            jwks.fetch_gate.wait(None).await;
        }
        jwks.provider.load_full().ok_or(MetadataError::Unavailable)
    }

    /// Replaces the keys of an issuer with a `jwks_file`, until the file changes or the process ends. `pushed` in
    /// seconds since 1970.
    pub fn replace_keys(&self, issuer: &str, keys: JwkSet, pushed: u64) -> Result<(), ReplaceError> {
        let (jwks, _) = self.with_key_file(issuer)?;
        jwks.put(keys, pushed).map_err(ReplaceError::Unusable)
    }

    /// Whether [`Issuers::replace_keys`] would accept these keys. Returns a digest of the keys in the issuer's file.
    pub fn check_keys(&self, issuer: &str, keys: &JwkSet) -> Result<String, ReplaceError> {
        let (jwks, file) = self.with_key_file(issuer)?;
        jwks.usable(keys).map_err(ReplaceError::Unusable)?;
        // Hash of the parsed key set: white space may differ between nodes.
        let file = serde_json::to_vec(file).unwrap_or_default();
        Ok(URL_SAFE_NO_PAD.encode(Sha256::digest(file)))
    }

    /// The cache of an issuer with a `jwks_file`, and the keys in that file.
    fn with_key_file(&self, issuer: &str) -> Result<(&JwksCache, &JwkSet), ReplaceError> {
        let jwks = &self.by_name.get(issuer).ok_or(ReplaceError::IssuerUnknown)?.jwks;
        match &jwks.source {
            KeySource::Remote(_) => Err(ReplaceError::Fetched),
            KeySource::File { keys, .. } => Ok((jwks, keys)),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_name.keys()
    }

    /// Whether this issuer is configured.
    pub fn knows(&self, issuer: &str) -> bool {
        self.by_name.contains_key(issuer)
    }

    /// By how much the clock of an issuer may be ahead; `None` if it is not configured.
    pub fn leeway_secs(&self, issuer: &str) -> Option<u64> {
        self.by_name.get(issuer).map(|issuer| issuer.rules.leeway_secs)
    }

    /// Longest lifetime of a token of any issuer, from `iat` to the end of the leeway, in seconds.
    pub fn longest_lifetime(&self) -> u64 {
        let lifetime = |issuer: &Issuer| issuer.rules.max_lifetime_secs.saturating_add(issuer.rules.leeway_secs);
        self.by_name.values().map(lifetime).max().unwrap_or(0)
    }

    /// Skipped keys, with the names of their issuers.
    pub fn skipped_keys(&self) -> Vec<(Arc<str>, SkippedKey)> {
        let caches = self.by_name.values().map(|issuer| &issuer.jwks);
        let sets = caches.filter_map(|jwks| Some((jwks.issuer.clone(), jwks.latest()?)));
        sets.flat_map(|(name, keys)| keys.set.skipped.clone().into_iter().map(move |key| (name.clone(), key))).collect()
    }

    /// Whether issuers are configured and none of them ever had keys.
    pub fn lack_keys(&self) -> bool {
        !self.by_name.is_empty() && self.by_name.values().all(|issuer| issuer.jwks.latest().is_none())
    }

    /// Updates the metrics of key ages; `now` in seconds since 1970.
    pub fn sweep(&self, now: u64) {
        for issuer in self.by_name.values() {
            if let Some(background) = &issuer.background {
                background.metrics.update(&issuer.jwks, now);
            }
        }
    }

    fn build(
        configs: Vec<IssuerConfig>,
        before: &HashMap<Arc<str>, Issuer>,
        max_token_bytes: usize,
    ) -> Result<Self, IssuerError> {
        let mut by_name = HashMap::with_capacity(configs.len());
        for config in configs {
            let name: Arc<str> = config.issuer.as_str().into();
            let failed = |problem| IssuerError { issuer: name.to_string(), problem };
            let issuer = Issuer::new(config, name.clone(), before.get(&name)).map_err(failed)?;
            if by_name.insert(name.clone(), issuer).is_some() {
                return Err(failed(IssuerProblem::Duplicate));
            }
        }
        Ok(Self { by_name, verified: TokenCache::new(MAX_CACHED_TOKENS), max_token_bytes })
    }

    fn parse<'a>(&self, token: &'a str) -> Result<Unverified<'a>, TokenError> {
        Unverified::parse(token, self.max_token_bytes)
    }

    /// `iss` is not verified yet, so it only selects a configured issuer.
    fn issuer_of(&self, token: &Unverified<'_>) -> Result<&Issuer, TokenError> {
        let name = required_string(&token.claims, "iss")?;
        self.by_name.get(name).ok_or(TokenError::IssuerUnknown)
    }

    /// Whether this generation of the issuer's keys is in force.
    fn are_in_force(&self, issuer: &str, keys: u64, now: u64) -> bool {
        let jwks = self.by_name.get(issuer).map(|issuer| &issuer.jwks);
        jwks.is_some_and(|jwks| jwks.keys(now).is_ok_and(|current| current.generation == keys))
    }
}

impl Issuer {
    fn new(config: IssuerConfig, name: Arc<str>, before: Option<&Issuer>) -> Result<Self, IssuerProblem> {
        let IssuerConfig {
            issuer: _,
            audiences,
            audience_claim,
            groups_claim,
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
        let previous = before.map(|before| &before.jwks);
        let jwks = JwksCache::new(name.clone(), keys, algorithms.clone(), keys_max_age_secs, previous)?;
        let same = before.filter(|before| Arc::ptr_eq(&before.jwks, &jwks));
        let background = same.and_then(|before| before.background.clone());
        let rules =
            ClaimRules { issuer: name, audiences, audience_claim, groups_claim, leeway_secs, max_lifetime_secs };
        Ok(Self { jwks, algorithms, typ, rules, background })
    }

    /// Checks `typ` and signature of an access token. Returns the generation of the keys.
    fn check(&self, token: &Unverified<'_>, now: u64) -> Result<u64, TokenError> {
        if !token.header.has_typ(self.typ.as_deref()) {
            return Err(TokenError::TypNotAllowed);
        }
        self.check_signature(token, now)
    }

    /// Waits for keys that are newer than the ones that did not verify `token`.
    async fn fetch_for<'a>(&'a self, token: &'a Unverified<'_>) -> FetchFor<'a> {
        let (gate, key_id) = (&self.jwks.fetch_gate, token.header.key_id.as_deref());
        FetchFor { gate, key_id, outcome: gate.wait(key_id).await }
    }

    fn check_signature(&self, token: &Unverified<'_>, now: u64) -> Result<u64, TokenError> {
        let algorithm = token.header.algorithm;
        if !self.algorithms.contains(&algorithm) {
            return Err(TokenError::AlgorithmNotAllowed);
        }
        let keys = self.jwks.keys(now)?;
        let is_signed_by = |key: &Key| {
            jsonwebtoken::crypto::verify(token.signature, token.signed.as_bytes(), &key.decoding, algorithm)
                .unwrap_or(false)
        };
        let candidates = keys.set.find(token.header.key_id.as_deref(), algorithm)?;
        if candidates.into_iter().any(is_signed_by) { Ok(keys.generation) } else { Err(TokenError::SignatureInvalid) }
    }
}

/// A wait for newer keys that one token caused.
struct FetchFor<'a> {
    gate: &'a FetchGate,
    key_id: Option<&'a str>,
    outcome: FetchOutcome,
}

impl FetchFor<'_> {
    /// The reason for which the token is refused after the wait.
    fn explain(&self, error: TokenError) -> TokenError {
        match (error, self.outcome) {
            (TokenError::KeyUnknown, FetchOutcome::Fetched) => {
                self.gate.record_absent(self.key_id);
                error
            }
            (TokenError::KeyUnknown, FetchOutcome::NotFetched) => TokenError::KeyNotFetched,
            _ => error,
        }
    }
}

impl fmt::Debug for Issuers {
    /// Names only: the cache contains personal claims.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}
