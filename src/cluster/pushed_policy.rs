//! Channel rules and issuer keys that control requests push: in force here, and in the shared store for all nodes.
//!
//! The newest push of each kind stands in the shared store. Every node reads it from there, the one that received the
//! request too, so all nodes apply pushes in the store's order. In an authenticated store a push stands with its signed
//! request and a version, and no node that applied it returns to an older one or to none.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jsonwebtoken::jwk::JwkSet;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::push_record::{self, PushRecord, PushTarget};
use crate::auth::Policy;
use crate::auth::publisher::RequestHead;
use crate::auth::token::{Issuers, ReplaceError};
use crate::broker::channel::rules::AmbiguousPattern;
use crate::broker::connection::registry::Registry;
use crate::broker::engine::shared_store::Authentication;
use crate::broker::{ChannelRules, Engine, Now, SharedStore};
use crate::ops::log::folded;
use crate::protocol::{ErrorCode, Refusal};

/// How long the shared store keeps a push for nodes that start after all others have ended.
const PUSH_TTL: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Changes with every push. In an authenticated store the versions of all pushes follow, as JSON, so that a starting node
/// notices one that was removed.
const TAG_KEY: &str = "pushed:tag";

const TAG_BYTES: usize = 16;

/// How often a node looks whether an authenticated store still has what it applied.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);

const RULES_KEY: &str = "pushed:channels";
const JWKS_KEY_PREFIX: &str = "pushed:jwks:";

/// Channel rules with the JSON that they were read from, `{"channels":[…],"channel_defaults":{…}}`.
#[derive(Clone, Debug)]
pub struct WrittenRules {
    pub rules: ChannelRules,
    pub written: Value,
}

/// Parse and check pushed bodies with the code that reads files. The errors are texts for the client.
#[derive(Clone, Copy)]
pub struct PolicyReaders {
    pub rules: fn(&[u8]) -> Result<WrittenRules, String>,
    pub keys: fn(&[u8]) -> Result<JwkSet, String>,
}

/// A push that was parsed and checked.
pub enum PushedPolicy<'a> {
    /// Channel rules; `None` returns to those of the files.
    Rules(Option<&'a [u8]>),
    Keys {
        issuer: &'a str,
        keys: JwkSet,
        body: &'a [u8],
    },
}

/// Applies pushes to this node's policy.
pub struct PolicySync {
    pub readers: PolicyReaders,
    engine: Arc<dyn Engine>,
    policy: Arc<Policy>,
    registry: Arc<Registry>,
    /// Locked over every change of the rules, so that no reload overwrites a concurrent push.
    sources: Mutex<RuleSources>,
    applied: tokio::sync::Mutex<Applied>,
}

struct RuleSources {
    files: WrittenRules,
    pushed: Option<WrittenRules>,
}

/// The state of the shared store that this node applied last.
#[derive(Default)]
struct Applied {
    tag: Option<Bytes>,
    /// The issuers whose keys were applied. A reload replaces them.
    issuers: Weak<Issuers>,
    /// By name.
    pushes: HashMap<String, Stored>,
    /// When all pushes were read; `None` while some are missing.
    checked: Option<Instant>,
}

/// A push as it stands in the store.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Stored {
    /// 0 for a push without a signed request, which replaces every other one.
    version: u64,
    value: Bytes,
}

impl PolicySync {
    pub fn new(
        readers: PolicyReaders,
        files: WrittenRules,
        engine: Arc<dyn Engine>,
        policy: Arc<Policy>,
        registry: Arc<Registry>,
    ) -> Self {
        let sources = Mutex::new(RuleSources { files, pushed: None });
        Self { readers, engine, policy, registry, sources, applied: tokio::sync::Mutex::default() }
    }

    /// Reads channel rules of a control request. They must be valid with the issuers of the files.
    pub fn read_rules(&self, body: &[u8]) -> Result<WrittenRules, String> {
        let pushed = (self.readers.rules)(body)?;
        let issuers = self.sources.lock().files.rules.issuers.clone();
        let rules = ChannelRules { issuers, ..pushed.rules.clone() };
        rules.check_patterns().map_err(|error| format!("channels[{}].match (request): {error}", error.index))?;
        Ok(pushed)
    }

    /// Refuses issuers with which the pushed rules are not valid.
    pub fn check_reload(&self, files: &WrittenRules) -> Result<(), AmbiguousPattern> {
        let sources = self.sources.lock();
        let pushed = sources.pushed.as_ref().map(|pushed| &pushed.rules);
        match pushed {
            Some(rules) => ChannelRules { issuers: files.rules.issuers.clone(), ..rules.clone() }.check_patterns(),
            None => Ok(()),
        }
    }

    /// Replaces the rules of the files. `apply` receives the rules in force, which are the pushed ones if there are any.
    pub fn reload(&self, files: WrittenRules, apply: impl FnOnce(ChannelRules)) {
        let mut sources = self.sources.lock();
        sources.files = files;
        apply(sources.in_force());
    }

    /// The rules in force and their source, as JSON.
    pub fn describe(&self) -> Value {
        let sources = self.sources.lock();
        match &sources.pushed {
            Some(pushed) => json!({ "source": "pushed", "rules": pushed.written }),
            None => json!({ "source": "files", "rules": sources.files.written }),
        }
    }

    /// Puts the push of a signed request in force. After an error it is unknown whether the push takes effect.
    pub async fn push(&self, push: PushedPolicy<'_>, request: &RequestHead<'_>) -> Result<(), Refusal> {
        let shared = self.engine.shared_store();
        let is_recorded = shared.authentication() != Authentication::None;
        if is_recorded {
            // The version must be above that of every earlier push. A push that cannot be read is replaced by this one.
            let _ = self.sync().await;
        }
        let (name, source, body) = match push {
            PushedPolicy::Rules(body) => (RULES_KEY.to_owned(), String::new(), body.unwrap_or_default()),
            PushedPolicy::Keys { issuer, keys, body } => {
                let source = self.policy.issuers().check_keys(issuer, &keys).map_err(unusable)?;
                (format!("{JWKS_KEY_PREFIX}{issuer}"), source, body)
            }
        };
        let mut versions = BTreeMap::new();
        let value = if is_recorded {
            versions = versions_in(shared.get(TAG_KEY).await.ok().flatten().as_deref());
            self.applied.lock().await.add_versions(&mut versions);
            let version = versions.get(&name).map_or(0, |known| known + 1).max(Now::read().unix_millis());
            versions.insert(name.clone(), version);
            push_record::encode(version, &source, request, body).map_err(|_| Refusal::from(ErrorCode::Internal))?
        } else if name == RULES_KEY {
            body.to_vec()
        } else {
            [format!("{} {source} ", Now::read().unix()).as_bytes(), body].concat()
        };
        shared.keep(&name, &value, PUSH_TTL).await?;
        // The tag is written last: a node that sees the new tag also sees the value.
        shared.keep(TAG_KEY, &new_tag(&versions)?, PUSH_TTL).await?;
        self.sync().await
    }

    /// Applies the pushes of all nodes since the last call. After an error some are missing, and those of earlier calls stay.
    pub async fn sync(&self) -> Result<(), Refusal> {
        let shared = self.engine.shared_store();
        // Serialized, so the newest state that was read is also the one applied last.
        let mut applied = self.applied.lock().await;
        let (tag, issuers) = (shared.get(TAG_KEY).await, self.policy.issuers());
        let is_reloaded = applied.issuers.as_ptr() != Arc::as_ptr(&issuers);
        let is_checked_again = shared.authentication() == Authentication::Required;
        let is_due = applied.checked.is_none_or(|at| is_checked_again && at.elapsed() >= RECHECK_INTERVAL);
        if tag.as_ref() == Ok(&applied.tag) && !is_reloaded && !is_due {
            return Ok(());
        }
        // If the store cannot be reached, no push can be read either.
        let tag = tag.unwrap_or_default();
        let names = issuers.names().map(|issuer| format!("{JWKS_KEY_PREFIX}{issuer}")).chain([RULES_KEY.to_owned()]);
        let (mut pushes, mut result, mut is_repaired) = (HashMap::new(), Ok(()), false);
        for name in names {
            let before = applied.pushes.get(&name);
            let stored = match self.read(&name, before, &mut is_repaired).await {
                Ok(Some(stored)) => stored,
                Ok(None) => continue,
                Err(refusal) => {
                    result = Err(refusal);
                    pushes.extend(before.map(|before| (name, before.clone())));
                    continue;
                }
            };
            if before != Some(&stored) || is_reloaded {
                self.apply(&issuers, &name, &stored.value);
            }
            pushes.insert(name, stored);
        }
        let mut versions = versions_in(tag.as_deref());
        for (name, version) in &versions {
            let is_used = *name == RULES_KEY || name.strip_prefix(JWKS_KEY_PREFIX).is_some_and(|of| issuers.knows(of));
            if is_used && pushes.get(name).is_none_or(|stored| stored.version < *version) {
                tracing::error!(push = name, "pushed policy missing in the shared store");
                result = Err(ErrorCode::EngineUnavailable.into());
            }
        }
        let checked = result.is_ok().then(Instant::now);
        let known_tag = applied.tag.take();
        *applied = Applied { tag, issuers: Arc::downgrade(&issuers), pushes, checked };
        if is_repaired {
            // Makes the other nodes read what `read` has restored.
            applied.add_versions(&mut versions);
            let tag = new_tag(&versions)?;
            shared.set(TAG_KEY, &tag, PUSH_TTL).await?;
            applied.tag = Some(tag.into());
        } else if let (None, Some(known)) = (&applied.tag, known_tag) {
            shared.set_if_absent(TAG_KEY, &known, PUSH_TTL).await?;
            applied.tag = Some(known);
        }
        result
    }

    /// A push from the shared store. One that the store lost or replaced by an older one is restored there.
    async fn read(
        &self,
        name: &str,
        known: Option<&Stored>,
        is_repaired: &mut bool,
    ) -> Result<Option<Stored>, Refusal> {
        let shared = self.engine.shared_store();
        let found = shared.get(name).await;
        let Some(known) = known else { return found?.map(|value| Stored::of(shared, value)).transpose() };
        let found = match found {
            Ok(None) => {
                tracing::warn!(push = name, "pushed policy missing in the shared store, restored");
                shared.set_if_absent(name, &known.value, PUSH_TTL).await?;
                *is_repaired = true;
                shared.get(name).await?
            }
            // Every value that this node did not write may be false while the store is not authenticated.
            Err(refusal) if shared.authentication() != Authentication::Required => return Err(refusal),
            found => found.unwrap_or_default(),
        };
        match found.map(|value| Stored::of(shared, value)) {
            Some(Ok(found)) if found.version == 0 || found >= *known => Ok(Some(found)),
            _ => {
                tracing::warn!(push = name, "pushed policy in the shared store is older or not authentic, restored");
                shared.set(name, &known.value, PUSH_TTL).await?;
                *is_repaired = true;
                Ok(Some(known.clone()))
            }
        }
    }

    /// A push that another node accepted and this node cannot use changes nothing here.
    fn apply(&self, issuers: &Issuers, name: &str, value: &[u8]) {
        let applied = match name.strip_prefix(JWKS_KEY_PREFIX) {
            None => self.apply_stored_rules(value),
            Some(issuer) => self.apply_stored_keys(issuers, issuer, value),
        };
        match applied {
            Ok(()) => {
                folded!(INFO, name, "pushed policy applied", push = name);
                self.registry.wake_all();
            }
            Err(error) => folded!(WARN, name, "pushed policy not applied", push = name, error),
        }
    }

    fn apply_stored_rules(&self, value: &[u8]) -> Result<(), String> {
        let body = match PushRecord::decode(value) {
            Some(record) => {
                record.verify(&self.policy.whitelist(), PushTarget::Rules)?;
                Some(record.body).filter(|_| !record.is_withdrawal())
            }
            None => Some(value).filter(|body| !body.is_empty()),
        };
        self.apply_rules(body).map_err(|refusal| refusal.detail.into())
    }

    fn apply_rules(&self, body: Option<&[u8]>) -> Result<(), Refusal> {
        let pushed = body.map(|body| self.read_rules(body)).transpose();
        let pushed = pushed.map_err(|error| Refusal::new(ErrorCode::Malformed, error))?;
        let mut sources = self.sources.lock();
        sources.pushed = pushed;
        self.policy.replace_rules(sources.in_force());
        Ok(())
    }

    /// Without a signed request the value is `SECONDS SOURCE BODY`: the time of the push, and a hash of the configured keys
    /// that it replaces.
    fn apply_stored_keys(&self, issuers: &Issuers, issuer: &str, value: &[u8]) -> Result<(), String> {
        const UNREADABLE: &str = "the stored value cannot be decoded";
        if let Some(record) = PushRecord::decode(value) {
            record.verify(&self.policy.whitelist(), PushTarget::KeysOf(issuer))?;
            return self.apply_keys(issuers, issuer, record.pushed(), record.source(), record.body);
        }
        let mut parts = value.splitn(3, |byte| *byte == b' ');
        let mut text = || std::str::from_utf8(parts.next().unwrap_or_default()).map_err(|_| UNREADABLE.to_owned());
        let (pushed, source, body) = (text()?, text()?, text()?);
        self.apply_keys(issuers, issuer, pushed.parse().map_err(|_| UNREADABLE)?, source, body.as_bytes())
    }

    fn apply_keys(
        &self,
        issuers: &Issuers,
        issuer: &str,
        pushed: u64,
        source: &str,
        body: &[u8],
    ) -> Result<(), String> {
        let keys = (self.readers.keys)(body)?;
        let own = issuers.check_keys(issuer, &keys).map_err(|error| error.to_string())?;
        // A changed file replaces earlier pushes, also after a restart.
        if own != source {
            return Err("the key file of this issuer has changed since the push".to_owned());
        }
        issuers.replace_keys(issuer, keys, pushed).map_err(|error| error.to_string())
    }
}

impl Applied {
    /// Raises the versions to those of the pushes that were applied.
    fn add_versions(&self, versions: &mut BTreeMap<String, u64>) {
        for (name, stored) in self.pushes.iter().filter(|(_, stored)| stored.version > 0) {
            let version = versions.entry(name.clone()).or_default();
            *version = stored.version.max(*version);
        }
    }
}

impl Stored {
    /// Refuses a push without its signed request where each must have one.
    fn of(shared: &dyn SharedStore, value: Bytes) -> Result<Self, Refusal> {
        match PushRecord::decode(&value).map(|record| record.version()) {
            Some(version) => Ok(Self { version, value }),
            None if shared.authentication() == Authentication::Required => {
                tracing::error!("pushed policy without a signed request in the shared store, push it again");
                Err(ErrorCode::EngineUnavailable.into())
            }
            None => Ok(Self { version: 0, value }),
        }
    }
}

/// The versions of all pushes, by name, that a tag lists.
fn versions_in(tag: Option<&[u8]>) -> BTreeMap<String, u64> {
    let versions = tag.and_then(|tag| tag.get(TAG_BYTES..));
    versions.and_then(|versions| serde_json::from_slice(versions).ok()).unwrap_or_default()
}

fn new_tag(versions: &BTreeMap<String, u64>) -> Result<Vec<u8>, Refusal> {
    let internal = || Refusal::from(ErrorCode::Internal);
    let mut tag = vec![0; TAG_BYTES];
    getrandom::fill(&mut tag).map_err(|_| internal())?;
    if !versions.is_empty() {
        serde_json::to_writer(&mut tag, versions).map_err(|_| internal())?;
    }
    Ok(tag)
}

impl RuleSources {
    /// The limits of each issuer's tokens always come from the files.
    fn in_force(&self) -> ChannelRules {
        match &self.pushed {
            Some(pushed) => ChannelRules { issuers: self.files.rules.issuers.clone(), ..pushed.rules.clone() },
            None => self.files.rules.clone(),
        }
    }
}

fn unusable(error: ReplaceError) -> Refusal {
    match error {
        ReplaceError::IssuerUnknown => Refusal::new(ErrorCode::NotFound, "no such issuer is configured"),
        error => Refusal::new(ErrorCode::Malformed, error.to_string()),
    }
}
