//! Channel rules and issuer keys that control requests push: in force here, and in the shared store for all nodes.
//!
//! The newest push of each kind stands in the shared store. Every node reads it from there, the one that received the
//! request too, so all nodes apply pushes in the store's order.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use jsonwebtoken::jwk::JwkSet;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::auth::Policy;
use crate::auth::token::{Issuers, ReplaceError};
use crate::broker::channel::rules::AmbiguousPattern;
use crate::broker::connection::registry::Registry;
use crate::broker::{ChannelRules, Engine, Now, SharedStore};
use crate::ops::log::folded;
use crate::protocol::{ErrorCode, Refusal};

/// How long the shared store keeps a push for nodes that start after all others have ended.
const PUSH_TTL: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Changes with every push.
const TAG_KEY: &str = "pushed:tag";

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
    /// By name, as stored.
    pushes: HashMap<String, Bytes>,
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

    /// Puts a push in force. After an error it is unknown whether the push takes effect.
    pub async fn push(&self, push: PushedPolicy<'_>) -> Result<(), Refusal> {
        let shared = self.engine.shared_store();
        let (name, value) = match push {
            PushedPolicy::Rules(body) => (RULES_KEY.to_owned(), body.unwrap_or_default().to_vec()),
            PushedPolicy::Keys { issuer, keys, body } => {
                let (issuers, now) = (self.policy.issuers(), Now::read().unix());
                let source = issuers.check_keys(issuer, &keys).map_err(unusable)?;
                (format!("{JWKS_KEY_PREFIX}{issuer}"), [format!("{now} {source} ").as_bytes(), body].concat())
            }
        };
        shared.keep(&name, &value, PUSH_TTL).await?;
        let mut tag = [0; 16];
        getrandom::fill(&mut tag).map_err(|_| Refusal::from(ErrorCode::Internal))?;
        // The tag is written last: a node that sees the new tag also sees the value.
        shared.keep(TAG_KEY, &tag, PUSH_TTL).await?;
        self.sync().await
    }

    /// Applies the pushes of all nodes since the last call.
    pub async fn sync(&self) -> Result<(), Refusal> {
        let shared = self.engine.shared_store();
        // Serialized, so the newest state that was read is also the one applied last.
        let mut applied = self.applied.lock().await;
        let (tag, issuers) = (shared.get(TAG_KEY).await?, self.policy.issuers());
        let is_reloaded = applied.issuers.as_ptr() != Arc::as_ptr(&issuers);
        if tag == applied.tag && !is_reloaded {
            return Ok(());
        }
        let names = issuers.names().map(|issuer| format!("{JWKS_KEY_PREFIX}{issuer}")).chain([RULES_KEY.to_owned()]);
        let mut pushes = HashMap::new();
        for name in names {
            let before = applied.pushes.get(&name);
            let Some(value) = read(shared, &name, before).await? else { continue };
            if before != Some(&value) || (is_reloaded && name != RULES_KEY) {
                self.apply(&issuers, &name, &value);
            }
            pushes.insert(name, value);
        }
        let tag = match (tag, &applied.tag) {
            // Redis lost its data; `read` has restored the pushes.
            (None, Some(known)) => {
                shared.set_if_absent(TAG_KEY, known, PUSH_TTL).await?;
                Some(known.clone())
            }
            (tag, _) => tag,
        };
        *applied = Applied { tag, issuers: Arc::downgrade(&issuers), pushes };
        Ok(())
    }

    /// A push that another node accepted and this node cannot use changes nothing here.
    fn apply(&self, issuers: &Issuers, name: &str, value: &[u8]) {
        let applied = match name.strip_prefix(JWKS_KEY_PREFIX) {
            None => {
                let body = Some(value).filter(|body| !body.is_empty());
                self.apply_rules(body).map_err(|refusal| refusal.detail.into())
            }
            Some(issuer) => self.apply_keys(issuers, issuer, value),
        };
        match applied {
            Ok(()) => {
                folded!(INFO, name, "pushed policy applied", push = name);
                self.registry.wake_all();
            }
            Err(error) => folded!(WARN, name, "pushed policy not applied", push = name, error),
        }
    }

    fn apply_rules(&self, body: Option<&[u8]>) -> Result<(), Refusal> {
        let pushed = body.map(|body| self.read_rules(body)).transpose();
        let pushed = pushed.map_err(|error| Refusal::new(ErrorCode::Malformed, error))?;
        let mut sources = self.sources.lock();
        sources.pushed = pushed;
        self.policy.replace_rules(sources.in_force());
        Ok(())
    }

    /// The value is `SECONDS SOURCE BODY`: the time of the push, and a hash of the configured keys that it replaces.
    fn apply_keys(&self, issuers: &Issuers, issuer: &str, value: &[u8]) -> Result<(), String> {
        const UNREADABLE: &str = "the stored value cannot be decoded";
        let mut parts = value.splitn(3, |byte| *byte == b' ');
        let mut text = || std::str::from_utf8(parts.next().unwrap_or_default()).map_err(|_| UNREADABLE.to_owned());
        let (pushed, source, body) = (text()?, text()?, text()?);
        let pushed = pushed.parse().map_err(|_| UNREADABLE)?;
        let keys = (self.readers.keys)(body.as_bytes())?;
        let own = issuers.check_keys(issuer, &keys).map_err(|error| error.to_string())?;
        // A changed file replaces earlier pushes, also after a restart.
        if own != source {
            return Err("the key file of this issuer has changed since the push".to_owned());
        }
        issuers.replace_keys(issuer, keys, pushed).map_err(|error| error.to_string())
    }
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

/// A push from the shared store. One that the store lost is restored there.
async fn read(shared: &dyn SharedStore, name: &str, known: Option<&Bytes>) -> Result<Option<Bytes>, Refusal> {
    match (shared.get(name).await?, known) {
        (None, Some(known)) => {
            shared.set_if_absent(name, known, PUSH_TTL).await?;
            shared.get(name).await
        }
        (found, _) => Ok(found),
    }
}

fn unusable(error: ReplaceError) -> Refusal {
    match error {
        ReplaceError::IssuerUnknown => Refusal::new(ErrorCode::NotFound, "no such issuer is configured"),
        error => Refusal::new(ErrorCode::Malformed, error.to_string()),
    }
}
