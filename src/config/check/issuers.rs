//! Issuers of tokens, with their keys and algorithms.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use jsonwebtoken::{Algorithm, jwk::JwkSet};
use serde_json::Value;

use super::channels::check_pattern;
use super::name;
use super::numbers::Numbers;
use crate::auth::IssuerConfig;
use crate::auth::fetch::Endpoint;
use crate::auth::token::{KeySource, Remote, discovery_endpoint, read_key_set};
use crate::broker::channel::rules::IssuerScope;
use crate::broker::{ChannelRule, ChannelRules, ClaimPattern};
use crate::config::files::{Files, read_text};
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings::{Issuer, OneOrMany};
use crate::config::suggest::one_of;
use crate::protocol::Pattern;

/// The supported algorithms. HMAC is excluded: its verification key can also sign.
pub const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
];

/// A larger difference of clocks is a fault; a larger leeway would only prolong expired tokens.
const MAX_LEEWAY_SECS: u64 = 60;

/// A provider that does not respond for a week has moved or is gone.
const DEFAULT_FETCHED_MAX_AGE_SECS: u64 = 7 * 86_400;

/// Keys are fetched again after half of the age, and at most once a minute.
const MIN_MAX_AGE_SECS: u64 = 120;

/// Returns the part of each issuer in channel rules.
pub fn check_scopes(issuers: &[Issuer], report: &mut Report) -> HashMap<Arc<str>, IssuerScope> {
    let mut by_issuer: HashMap<Arc<str>, IssuerScope> = HashMap::new();
    for (index, issuer) in issuers.iter().enumerate() {
        let Some(url) = &issuer.issuer else { continue };
        let path = Path::of("issuers").index(index);
        let channels = issuer.channels.as_ref().map(|channels| check_channels(channels, &path.key("channels"), report));
        if let Some(name) = &issuer.name {
            name::check(name, &path.key("name"), report);
            if by_issuer.values().any(|other| other.name.as_deref() == Some(name)) {
                report.wrong(&path.key("name"), name.as_str(), "is used twice; each issuer needs its own name");
            }
        }
        by_issuer.insert(url.as_str().into(), IssuerScope { name: issuer.name.as_deref().map(Into::into), channels });
    }
    by_issuer
}

fn check_channels(channels: &[String], path: &Path, report: &mut Report) -> Vec<Pattern> {
    if channels.is_empty() && !report.has_mistake_in(path) {
        let right = "must list the channels for its tokens, such as [\"prices.*\"]";
        report.wrong(path, Value::Array(Vec::new()), right);
    }
    let patterns = channels.iter().enumerate();
    patterns.map(|(index, pattern)| check_pattern(pattern, &path.index(index), report)).collect()
}

/// Reports patterns that do not tell the subjects of two issuers apart, and issuers without the name that patterns need.
pub fn check_patterns(rules: &ChannelRules, issuers: &[Issuer], report: &mut Report) {
    if let Err(error) = rules.check_patterns() {
        let path = Path::of("channels").index(error.index).key("match");
        report.misplaced(&path, error);
    }
    let names_issuer = |rule: &ChannelRule| rule.claim_pattern.as_ref().is_some_and(ClaimPattern::names_issuer);
    if !rules.rules.iter().any(names_issuer) {
        return;
    }
    for (index, _) in issuers.iter().enumerate().filter(|(_, issuer)| issuer.name.is_none()) {
        let path = Path::of("issuers").index(index);
        report.missing(&path, "name", "must be a short name: it stands for {iss} in patterns of channels");
    }
}

pub fn check(issuers: Vec<Issuer>, report: &mut Report, files: &mut Files) -> Vec<IssuerConfig> {
    let mut checked: Vec<IssuerConfig> = Vec::new();
    for (index, issuer) in issuers.into_iter().enumerate() {
        let path = Path::of("issuers").index(index);
        let issuer = check_one(issuer, &path, report, files);
        if !issuer.issuer.is_empty() && checked.iter().any(|known| known.issuer == issuer.issuer) {
            let right = "is configured twice; one entry may list several audiences and keys";
            report.wrong(&path.key("issuer"), issuer.issuer.as_str(), right);
        }
        checked.push(issuer);
    }
    checked
}

fn check_one(issuer: Issuer, path: &Path, report: &mut Report, files: &mut Files) -> IssuerConfig {
    let Issuer {
        issuer,
        name: _,
        audience,
        audience_claim,
        known_audiences: _,
        groups_claim,
        jwks_file,
        jwks_url,
        discovery,
        jwks_max_age_secs,
        algorithms,
        typ,
        leeway_secs,
        max_lifetime_secs,
        channels: _,
        login: _,
    } = issuer;
    let issuer = issuer.filter(|issuer| !issuer.is_empty()).unwrap_or_else(|| {
        report.missing(path, "issuer", "must be exactly the claim `iss` of its tokens");
        String::new()
    });
    let audiences = audience.map(OneOrMany::into_vec).unwrap_or_default();
    if audiences.is_empty() || audiences.iter().any(String::is_empty) {
        report.missing(path, "audience", "must be the claim `aud` of its tokens for this gateway, one or a list");
    }
    name::check_claim(&audience_claim, &path.key("audience_claim"), report);
    name::check_claim(&groups_claim, &path.key("groups_claim"), report);
    if typ.as_deref() == Some("") {
        report.wrong(&path.key("typ"), "", "must be the header `typ` of its tokens, or left out");
    }
    if leeway_secs > MAX_LEEWAY_SECS {
        report.wrong(&path.key("leeway_secs"), leeway_secs, format_args!("must be at most {MAX_LEEWAY_SECS}"));
    }
    Numbers::new(path.clone(), report).secs("max_lifetime_secs", max_lifetime_secs, 1);
    let keys = check_keys(&issuer, (jwks_file, jwks_url, discovery), path, report, files);
    let default_age = if matches!(keys, KeySource::Remote(_)) { DEFAULT_FETCHED_MAX_AGE_SECS } else { 0 };
    let max_age = jwks_max_age_secs.unwrap_or(default_age);
    Numbers::new(path.clone(), report).secs("jwks_max_age_secs", max_age, 0);
    if (1..MIN_MAX_AGE_SECS).contains(&max_age) {
        let right = format_args!("must be 0 (no limit) or at least {MIN_MAX_AGE_SECS}");
        report.wrong(&path.key("jwks_max_age_secs"), max_age, right);
    }
    IssuerConfig {
        issuer,
        audiences,
        audience_claim,
        groups_claim,
        keys,
        keys_max_age_secs: max_age,
        algorithms: check_algorithms(algorithms, &path.key("algorithms"), report),
        typ,
        leeway_secs,
        max_lifetime_secs,
    }
}

fn check_algorithms(names: Vec<String>, path: &Path, report: &mut Report) -> Vec<Algorithm> {
    if names.is_empty() && !report.has_mistake_in(path) {
        report.wrong(path, Value::Array(Vec::new()), "must list at least one, such as [\"ES256\"]");
    }
    let mut algorithms = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let path = path.index(index);
        match ALGORITHMS.iter().find(|(known, _)| known == name) {
            Some((_, algorithm)) => algorithms.push(*algorithm),
            None if name.eq_ignore_ascii_case("none") => {
                report.wrong(&path, name.as_str(), "refused: such a token is not signed");
            }
            None if name.to_ascii_uppercase().starts_with("HS") => {
                let why = "refused: a key that verifies such tokens can also make one; use a public-key algorithm";
                report.wrong(&path, name.as_str(), why);
            }
            None => report.wrong(&path, name.as_str(), one_of(name, &ALGORITHMS.map(|(name, _)| name))),
        }
    }
    algorithms
}

/// Reads the keys; exactly one source must be set.
fn check_keys(
    issuer: &str,
    sources: (Option<String>, Option<String>, bool),
    path: &Path,
    report: &mut Report,
    files: &mut Files,
) -> KeySource {
    match sources {
        (Some(file), None, false) => return check_file(&file, path, report, files),
        (None, Some(url), false) => match Endpoint::configured(&url) {
            Ok(endpoint) => return KeySource::Remote(Remote::KeySet(endpoint)),
            // The value may hold a password, so it is not shown.
            Err(error) => report.misplaced(&path.key("jwks_url"), error),
        },
        (None, None, true) => match discovery_endpoint(issuer) {
            Ok(endpoint) => return KeySource::Remote(Remote::Discovery(endpoint)),
            Err(error) if !issuer.is_empty() => {
                report.misplaced(&path.key("discovery"), format_args!("needs an issuer that is a URL: {error}"));
            }
            Err(_) => {}
        },
        (None, None, false) => {
            report.missing(
                path,
                "jwks_file",
                "must be a file with the issuer's public keys (a JWK Set, RFC 7517); or set jwks_url or discovery",
            );
        }
        _ => report.misplaced(path, "has more than one of jwks_file, jwks_url and discovery; exactly one must be set"),
    }
    KeySource::File { keys: JwkSet { keys: Vec::new() }, changed: 0 }
}

fn check_file(name: &str, path: &Path, report: &mut Report, files: &mut Files) -> KeySource {
    let file = files.locate(name);
    // Before the read: if the file changes in between, its keys count as older, never as newer.
    let changed = std::fs::metadata(&file).and_then(|metadata| metadata.modified()).ok();
    let changed = changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |time| time.as_secs());
    let keys = read_text(&file).and_then(|text| read_key_set(text.as_bytes())).unwrap_or_else(|reason| {
        report.wrong(&path.key("jwks_file"), name, format_args!("must be a JWK Set with public keys: {reason}"));
        JwkSet { keys: Vec::new() }
    });
    KeySource::File { keys, changed }
}
