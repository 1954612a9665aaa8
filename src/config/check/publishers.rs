//! The whitelist: key, channels and expiry of each publisher.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::channels::check_pattern;
use super::name;
use super::numbers::Numbers;
use crate::auth::keys::{Fingerprint, parse_fingerprint, parse_public_key};
use crate::auth::publisher::{BasicConfig, PasswordHash};
use crate::auth::{PublisherConfig, PublisherKey};
use crate::config::files::{Files, READABLE_SECRET, is_world_readable, read_text};
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::settings::{Basic, Publisher};

const HASH_HINT: &str = "must be an Argon2id hash from `lastmile password`, or a file with it";

const PASSWORD_WARNING: &str = "a password is sent with every publication, so a leaked request lets others publish. A signed \
     request protects its content, cannot be replayed, and its key never leaves the publisher";

const KEY_HINT: &str =
    "must be an ed25519 public key, OpenSSH (ssh-ed25519 AAAA…) or PEM, as text or in a file; or set sha256 instead";

pub fn check(publishers: BTreeMap<String, Publisher>, report: &mut Report, files: &mut Files) -> Vec<PublisherConfig> {
    let mut owners: Vec<(Fingerprint, Path)> = Vec::new();
    let mut checked: Vec<PublisherConfig> = Vec::new();
    for (name, publisher) in publishers {
        let path = Path::of("publishers").key(&name);
        let Some(publisher) = check_one(name, publisher, &path, report, files) else { continue };
        let username = publisher.basic.as_ref().map(|basic| &basic.username);
        let is_same = |other: &&PublisherConfig| other.basic.as_ref().map(|basic| &basic.username) == username;
        if let Some(owner) = checked.iter().find(is_same).filter(|_| username.is_some()) {
            let why = format!("is also the user name of publishers.{}; each publisher needs its own", owner.name);
            report.misplaced(&path.key("basic").key("username"), why);
        }
        if let Some(fingerprint) = publisher.key.as_ref().map(PublisherKey::fingerprint) {
            match owners.iter().find(|(known, _)| *known == fingerprint) {
                Some((_, owner)) => {
                    report.misplaced(&path, format_args!("has the same key as {owner}; each publisher needs its own"));
                }
                None => owners.push((fingerprint, path)),
            }
        }
        checked.push(publisher);
    }
    checked
}

fn check_one(
    name: String,
    publisher: Publisher,
    path: &Path,
    report: &mut Report,
    files: &mut Files,
) -> Option<PublisherConfig> {
    let Publisher { key, sha256, basic, channels, control, not_after, rate_limit_per_second } = publisher;
    name::check(&name, path, report);
    let patterns_path = path.key("channels");
    if channels.is_empty() && !control {
        report.missing(path, "channels", "must list channels that it may publish to, such as [\"prices.*\"]");
    }
    let channels = channels.iter().enumerate();
    let channels =
        channels.map(|(index, pattern)| check_pattern(pattern, &patterns_path.index(index), report)).collect();
    let not_after = not_after.and_then(|text| check_not_after(&text, &path.key("not_after"), report));
    let rate = Numbers::new(path.clone(), report).u32("rate_limit_per_second", rate_limit_per_second, 0);
    // A key is optional with a password, but must be valid if it is set.
    let key = match (&key, &sha256, &basic) {
        (None, None, Some(_)) => None,
        _ => Some(check_key(key, sha256, path, report, files)?),
    };
    let basic = match basic {
        Some(basic) => Some(check_basic(basic, &path.key("basic"), report, files)?),
        None => None,
    };
    let rate_limit_per_second = Some(rate).filter(|rate| *rate > 0);
    Some(PublisherConfig { name, key, basic, channels, control, not_after, rate_limit_per_second })
}

fn check_basic(basic: Basic, path: &Path, report: &mut Report, files: &mut Files) -> Option<BasicConfig> {
    let Basic { username, password_argon2 } = basic;
    // The first colon ends the name (RFC 7617 section 2).
    let username = username.filter(|username| !username.is_empty() && !username.contains(':'));
    if username.is_none() {
        report.missing(path, "username", "must be a name without a colon");
    }
    let hash_path = path.key("password_argon2");
    let Some(text) = password_argon2 else {
        report.missing(path, "password_argon2", HASH_HINT);
        return None;
    };
    let is_text = text.starts_with('$');
    let parse = |text: &str| PasswordHash::parse(text.trim()).map_err(|reason| reason.to_string());
    let parsed = if is_text {
        parse(&text)
    } else {
        let file = files.locate(&text);
        if is_world_readable(&file) {
            report.warn(&hash_path, READABLE_SECRET);
        }
        read_text(&file).and_then(|text| parse(&text))
    };
    let hash = match parsed {
        Ok(hash) => hash,
        Err(reason) => {
            report.wrong(&hash_path, text, format_args!("{HASH_HINT} ({reason})"));
            return None;
        }
    };
    if hash.is_weak() {
        report.warn(
            &hash_path,
            "has weaker parameters than those of `lastmile password`, so a leaked hash is easier to crack",
        );
    }
    report.warn(path, PASSWORD_WARNING);
    Some(BasicConfig { username: username?, hash })
}

fn check_key(
    key: Option<String>,
    sha256: Option<String>,
    path: &Path,
    report: &mut Report,
    files: &mut Files,
) -> Option<PublisherKey> {
    match (key, sha256) {
        (Some(key), None) => public_key(&key, &path.key("key"), report, files),
        (None, Some(hash)) => match parse_fingerprint(&hash) {
            Ok(fingerprint) => Some(PublisherKey::Hash(fingerprint)),
            Err(reason) => {
                let right = "must be a fingerprint from `ssh-keygen -lf`, SHA256:…";
                report.wrong(&path.key("sha256"), hash, format_args!("{right} ({reason})"));
                None
            }
        },
        (Some(_), Some(_)) => {
            report.misplaced(&path.key("sha256"), "cannot be set with key; leave out one of the two");
            None
        }
        (None, None) => {
            report.missing(path, "key", KEY_HINT);
            None
        }
    }
}

fn public_key(key: &str, path: &Path, report: &mut Report, files: &mut Files) -> Option<PublisherKey> {
    let is_text = key.contains('\n') || key.trim_start().starts_with("-----") || key.contains("ssh-ed25519 ");
    let parsed = if is_text {
        parse_public_key(key).map_err(|reason| reason.to_string())
    } else {
        let file = files.locate(key);
        let parsed = read_text(&file).and_then(|text| parse_public_key(&text).map_err(|reason| reason.to_string()));
        parsed.map_err(|reason| format!("{}: {reason}", file.display()))
    };
    match parsed {
        Ok(key) => Some(PublisherKey::Known(key)),
        Err(reason) => {
            report.wrong(path, key, format_args!("{KEY_HINT} ({reason})"));
            None
        }
    }
}

fn check_not_after(text: &str, path: &Path, report: &mut Report) -> Option<jiff::Timestamp> {
    let Ok(time) = text.parse::<jiff::Timestamp>() else {
        report.wrong(path, text, "must be a time with a zone, such as 2027-12-31T00:00:00Z (RFC 3339)");
        return None;
    };
    if SystemTime::from(time) <= SystemTime::now() {
        report.warn(path, format_args!("{time} is in the past: the key is refused"));
    }
    Some(time)
}
