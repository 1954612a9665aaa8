//! From a token to the principal it proves. Every failure is a [`TokenError`]; nothing is fetched.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::JwkSet;

use super::IssuerConfig;
use super::cache::{TokenDigest, Verified};
use super::claims::{Accepted, Rules, required_string};
use super::error::TokenError;
use super::header::Unverified;
use super::key_set::{KeySet, SkippedKey, is_asymmetric};
use crate::broker::Principal;

/// Bytes of a token; checked before anything else is done with it.
const MAX_TOKEN: usize = 8 * 1024;
/// Tokens remembered as verified.
const REMEMBERED: usize = 10_000;

/// The issuers of one configuration. A reload makes a new value, and with it forgets what was verified.
pub struct Issuers {
    by_name: HashMap<Arc<str>, Issuer>,
    verified: Verified,
}

/// Keys belong to their issuer, so that two issuers with the same `kid` never mix.
struct Issuer {
    keys: ArcSwap<KeySet>,
    algorithms: Vec<Algorithm>,
    typ: Option<String>,
    rules: Rules,
}

/// An issuer that cannot be used as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerError {
    pub issuer: String,
    pub problem: IssuerProblem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerProblem {
    /// The same issuer is configured before.
    Duplicate,
    NoIssuer,
    NoAudience,
    NoAlgorithm,
    /// HS256 and the like.
    SymmetricAlgorithm(Algorithm),
    /// Two keys with this `kid` go with the same algorithm.
    DuplicateKeyId(String),
    /// No key can verify anything, and why.
    NoUsableKey(Vec<SkippedKey>),
}

/// Why pushed keys are not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplaceError {
    IssuerUnknown,
    Unusable(IssuerProblem),
}

impl Issuers {
    /// Reads every key once. An empty list accepts no token.
    pub fn new(configs: Vec<IssuerConfig>) -> Result<Self, IssuerError> {
        let mut by_name = HashMap::with_capacity(configs.len());
        for config in configs {
            let name: Arc<str> = config.issuer.as_str().into();
            let failed = |problem| IssuerError { issuer: name.to_string(), problem };
            let issuer = Issuer::new(config, name.clone()).map_err(failed)?;
            if by_name.insert(name.clone(), issuer).is_some() {
                return Err(failed(IssuerProblem::Duplicate));
            }
        }
        Ok(Self { by_name, verified: Verified::new(REMEMBERED) })
    }

    /// Who the bearer of `token` is; `now` in seconds since 1970.
    ///
    /// The issuer's leeway counts for this admission only: a session ends at [`Principal::expires`].
    pub fn verify(&self, token: &str, now: u64) -> Result<Arc<Principal>, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let digest = TokenDigest::of(token);
        if let Some(principal) = self.verified.get(&digest, now) {
            return Ok(principal);
        }
        let Accepted { principal, admitted } = self.verify_anew(token, now)?;
        let principal = Arc::new(principal);
        self.verified.insert(digest, principal.clone(), admitted);
        Ok(principal)
    }

    /// Puts pushed keys in force for an issuer, until the process ends. What was verified by others is forgotten.
    pub fn replace_keys(&self, issuer: &str, keys: JwkSet) -> Result<(), ReplaceError> {
        let issuer = self.by_name.get(issuer).ok_or(ReplaceError::IssuerUnknown)?;
        let keys = KeySet::new(&keys, &issuer.algorithms)
            .map_err(|duplicate| ReplaceError::Unusable(IssuerProblem::DuplicateKeyId(duplicate.0)))?;
        if keys.is_empty() {
            return Err(ReplaceError::Unusable(IssuerProblem::NoUsableKey(keys.skipped)));
        }
        issuer.keys.store(Arc::new(keys));
        self.verified.clear();
        Ok(())
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
    pub fn skipped_keys(&self) -> impl Iterator<Item = (&str, SkippedKey)> {
        self.by_name
            .iter()
            .flat_map(|(name, issuer)| issuer.keys.load().skipped.clone().into_iter().map(|key| (&**name, key)))
    }

    fn verify_anew(&self, token: &str, now: u64) -> Result<Accepted, TokenError> {
        let token = Unverified::parse(token)?;
        // Unproven as yet, `iss` only chooses among what is configured.
        let name = required_string(&token.claims, "iss")?;
        let issuer = self.by_name.get(name).ok_or(TokenError::IssuerUnknown)?;
        issuer.check_signature(&token)?;
        issuer.rules.check(token.claims, now)
    }
}

impl Issuer {
    fn new(config: IssuerConfig, name: Arc<str>) -> Result<Self, IssuerProblem> {
        let IssuerConfig { issuer: _, audiences, keys, algorithms, typ, leeway_secs, max_lifetime_secs } = config;
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
        let keys = KeySet::new(&keys, &algorithms).map_err(|duplicate| IssuerProblem::DuplicateKeyId(duplicate.0))?;
        if keys.is_empty() {
            return Err(IssuerProblem::NoUsableKey(keys.skipped));
        }
        let rules = Rules { issuer: name, audiences, leeway_secs, max_lifetime_secs };
        Ok(Self { keys: ArcSwap::from_pointee(keys), algorithms, typ, rules })
    }

    fn check_signature(&self, token: &Unverified<'_>) -> Result<(), TokenError> {
        let algorithm = token.header.algorithm;
        if !self.algorithms.contains(&algorithm) {
            return Err(TokenError::AlgorithmNotAllowed);
        }
        if !token.header.has_typ(self.typ.as_deref()) {
            return Err(TokenError::TypNotAllowed);
        }
        let keys = self.keys.load();
        let key = keys.find(token.header.key_id.as_deref(), algorithm)?;
        match jsonwebtoken::crypto::verify(token.signature, token.signed.as_bytes(), &key.decoding, algorithm) {
            Ok(true) => Ok(()),
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

impl fmt::Display for IssuerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "issuer {:?}: {}", self.issuer, self.problem)
    }
}

impl fmt::Display for ReplaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IssuerUnknown => f.write_str("no such issuer is configured"),
            Self::Unusable(problem) => problem.fmt(f),
        }
    }
}

impl fmt::Display for IssuerProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IssuerProblem::Duplicate => f.write_str("configured twice"),
            IssuerProblem::NoIssuer => f.write_str("the name is empty"),
            IssuerProblem::NoAudience => f.write_str("an audience is needed"),
            IssuerProblem::NoAlgorithm => f.write_str("an algorithm is needed"),
            IssuerProblem::SymmetricAlgorithm(algorithm) => {
                write!(f, "{algorithm:?} is symmetric; name algorithms of public keys, such as ES256")
            }
            IssuerProblem::DuplicateKeyId(key_id) => write!(f, "two keys have the kid {key_id:?}"),
            IssuerProblem::NoUsableKey(skipped) => {
                f.write_str("the key set has no usable key")?;
                skipped.iter().try_for_each(|key| write!(f, "; {key}"))
            }
        }
    }
}

impl std::error::Error for IssuerError {}
