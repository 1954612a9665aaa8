//! What is pushed, over nodes: the newest push of each kind stands in the memory that the nodes share, and every node
//! takes it from there, also the one that was asked. So the order of that memory decides, the same for all.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use jsonwebtoken::jwk::JwkSet;

use crate::auth::token::{Issuers, ReplaceError};
use crate::broker::{Now, SharedStore};
use crate::protocol::{ErrorCode, Refusal};
use crate::transport::state::AppState;

/// How long a push is remembered, by nodes that begin after all others have ended.
const PUSH_TTL: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Another one after every push.
const TAG_KEY: &str = "pushed:tag";

const RULES_KEY: &str = "pushed:channels";
const JWKS_KEY_PREFIX: &str = "pushed:jwks:";

/// A push that was read and checked.
pub enum PushedPolicy<'a> {
    /// Channel rules, or none to go back to those of the files.
    Rules(Option<&'a [u8]>),
    Keys {
        issuer: &'a str,
        keys: JwkSet,
        body: &'a [u8],
    },
}

/// What this node found in the shared memory last.
#[derive(Default)]
pub struct Applied {
    tag: Option<Bytes>,
    /// Of whom keys were looked for; a reload makes others.
    issuers: Weak<Issuers>,
    /// By name, as they stand there.
    pushes: HashMap<String, Bytes>,
}

/// Puts a push in force. Where nodes share a memory, an error leaves open whether it will be.
pub async fn push(app: &AppState, push: PushedPolicy<'_>) -> Result<(), Refusal> {
    let (issuers, now) = (app.policy.issuers(), Now::read().unix());
    let Some(shared) = app.engine.shared_store() else {
        return match push {
            PushedPolicy::Rules(body) => apply_rules(app, body),
            PushedPolicy::Keys { issuer, keys, .. } => issuers.replace_keys(issuer, keys, now).map_err(unusable),
        };
    };
    let (name, value) = match push {
        PushedPolicy::Rules(body) => (RULES_KEY.to_owned(), body.unwrap_or_default().to_vec()),
        PushedPolicy::Keys { issuer, keys, body } => {
            let source = issuers.check_keys(issuer, &keys).map_err(unusable)?;
            (format!("{JWKS_KEY_PREFIX}{issuer}"), [format!("{now} {source} ").as_bytes(), body].concat())
        }
    };
    shared.put(&name, &value, PUSH_TTL).await?;
    let mut tag = [0; 16];
    getrandom::fill(&mut tag).map_err(|_| Refusal::from(ErrorCode::Internal))?;
    // Behind the push, so that whoever sees it finds the push.
    shared.put(TAG_KEY, &tag, PUSH_TTL).await?;
    sync(app).await
}

/// Takes over what was pushed to any node since the last time. Returns at once where nothing is shared.
pub async fn sync(app: &AppState) -> Result<(), Refusal> {
    let Some(shared) = app.engine.shared_store() else { return Ok(()) };
    // One after the other, so that the last one to change anything is the last one that looked.
    let mut taken = app.control.taken.lock().await;
    let (tag, issuers) = (shared.get(TAG_KEY).await?, app.policy.issuers());
    let is_reloaded = taken.issuers.as_ptr() != Arc::as_ptr(&issuers);
    if tag == taken.tag && !is_reloaded {
        return Ok(());
    }
    let names = issuers.names().map(|issuer| format!("{JWKS_KEY_PREFIX}{issuer}")).chain([RULES_KEY.to_owned()]);
    let mut pushes = HashMap::new();
    for name in names {
        let before = taken.pushes.get(&name);
        let Some(value) = read(shared, &name, before).await? else { continue };
        if before != Some(&value) || (is_reloaded && name != RULES_KEY) {
            apply(app, &issuers, &name, &value);
        }
        pushes.insert(name, value);
    }
    let tag = match (tag, &taken.tag) {
        // Redis lost its memory; the pushes stand there again by now.
        (None, Some(known)) => {
            shared.set_if_absent(TAG_KEY, known, PUSH_TTL).await?;
            Some(known.clone())
        }
        (tag, _) => tag,
    };
    *taken = Applied { tag, issuers: Arc::downgrade(&issuers), pushes };
    Ok(())
}

/// A push as the memory has it; one that was lost there is put back.
async fn read(shared: &dyn SharedStore, name: &str, known: Option<&Bytes>) -> Result<Option<Bytes>, Refusal> {
    match (shared.get(name).await?, known) {
        (None, Some(known)) => {
            shared.set_if_absent(name, known, PUSH_TTL).await?;
            shared.get(name).await
        }
        (found, _) => Ok(found),
    }
}

/// A push that counts on another node but cannot be read here changes nothing.
fn apply(app: &AppState, issuers: &Issuers, name: &str, value: &[u8]) {
    let taken = match name.strip_prefix(JWKS_KEY_PREFIX) {
        None => apply_rules(app, Some(value).filter(|body| !body.is_empty())).map_err(|refusal| refusal.detail.into()),
        Some(issuer) => apply_keys(app, issuers, issuer, value),
    };
    match taken {
        Ok(()) => {
            tracing::info!(push = name, "took over what a control request pushed");
            app.registry.wake_all();
        }
        Err(why) => tracing::warn!(push = name, why, "what was pushed to another node is not in force here"),
    }
}

fn apply_rules(app: &AppState, body: Option<&[u8]>) -> Result<(), Refusal> {
    let rules = body.map(app.control.readers.rules).transpose();
    app.control.put(rules.map_err(|error| Refusal::new(ErrorCode::Malformed, error))?, &app.policy);
    Ok(())
}

/// `SECONDS SOURCE BODY`: when they were pushed, and in the place of which keys.
fn apply_keys(app: &AppState, issuers: &Issuers, issuer: &str, value: &[u8]) -> Result<(), String> {
    let mut parts = value.splitn(3, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(parts.next().unwrap_or_default()).map_err(|_| "it cannot be read".to_owned());
    let (pushed, source, body) = (text()?, text()?, text()?);
    let pushed = pushed.parse().map_err(|_| "it cannot be read")?;
    let keys = (app.control.readers.keys)(body.as_bytes())?;
    let own = issuers.check_keys(issuer, &keys).map_err(|error| error.to_string())?;
    // Whoever changes the file means to begin anew with it, also with a restart.
    if own != source {
        return Err("the file of this issuer's keys is another one than it was then".to_owned());
    }
    issuers.replace_keys(issuer, keys, pushed).map_err(|error| error.to_string())
}

fn unusable(error: ReplaceError) -> Refusal {
    match error {
        ReplaceError::IssuerUnknown => Refusal::new(ErrorCode::NotFound, "no such issuer is configured"),
        error => Refusal::new(ErrorCode::Malformed, error.to_string()),
    }
}
