//! Revocations: principals of a subject, session, token or issuer that operators or providers end early.
//!
//! A revocation ends principals issued at or before its time; a later login is accepted. It is dropped once everything
//! that it ends has expired. At capacity a new revocation is refused: none is dropped early.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::broker::Principal;

/// Largest lead of `before`, for issuers with fast clocks. A larger one would refuse future logins.
pub const MAX_AHEAD_SECS: u64 = 60;

/// The part of the capacity that logouts leave to operators.
const OPERATORS_PART: usize = 10;

/// The part of the capacity for the logouts of one person, and the least of them.
const PERSONS_PART: u64 = 100;
const MIN_SHARE_OF_PERSON: u64 = 16;

/// Ends the principals of an issuer that [`Revocation::what`] selects and that were issued at or before a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Revocation {
    /// Compared with `iss`, exactly.
    pub issuer: Arc<str>,
    pub what: Revoked,
    /// Seconds since 1970, compared with `iat`. A token without `iat` is always older.
    pub before: u64,
}

/// Selects the principals of an issuer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Revoked {
    /// Principals with this `sub`.
    Subject(Box<str>),
    /// Principals with this `sid` (OpenID Connect Back-Channel Logout section 2.1).
    Session(Box<str>),
    /// The principal of the token with this `jti`.
    TokenId(Box<str>),
    /// All principals of the issuer.
    Issuer,
}

/// Why a revocation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// The table is full. Holds its capacity.
    #[error("revocation limit reached ({0})")]
    Full(usize),
    #[error("`before` is more than {} s in the future", MAX_AHEAD_SECS)]
    Ahead,
}

/// The revocations in force. Entries of the file have their own table, which a reload replaces; entries added at
/// runtime stay.
pub struct Revocations {
    capacity: usize,
    /// Longest lifetime of tokens and sessions, in seconds. Never decreases: principals admitted under a longer limit
    /// may be alive.
    lifetime: AtomicU64,
    /// Whether there are entries, so that most checks cost one load.
    has_entries: AtomicBool,
    tables: RwLock<Tables>,
}

struct Tables {
    runtime: Table,
    from_file: Table,
    /// Lower bound of `before` over all entries.
    oldest: u64,
}

/// By issuer and selection: the latest `before`.
type Table = HashMap<Arc<str>, HashMap<Revoked, u64>>;

impl Revocations {
    /// Stores at most `capacity` revocations.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            lifetime: AtomicU64::new(0),
            has_entries: AtomicBool::new(false),
            tables: RwLock::new(Tables { runtime: Table::new(), from_file: Table::new(), oldest: u64::MAX }),
        }
    }

    /// Raises the retention to the given lifetime of tokens or sessions.
    pub fn keep_for(&self, secs: u64) {
        self.lifetime.fetch_max(secs, Ordering::Relaxed);
    }

    /// Adds a revocation at runtime. `now` in seconds since 1970. Only [`super::Policy::revoke`] makes live connections
    /// check again.
    pub fn add(&self, revocation: Revocation, now: u64) -> Result<(), RevocationError> {
        if revocation.before > now.saturating_add(MAX_AHEAD_SECS) {
            return Err(RevocationError::Ahead);
        }
        self.add_again(revocation, now)
    }

    /// [`Revocations::add`] for a revocation that another node or an earlier process accepted, by another clock.
    pub fn add_again(&self, revocation: Revocation, now: u64) -> Result<(), RevocationError> {
        let Revocation { issuer, what, before } = revocation;
        if now > before.saturating_add(self.lifetime()) {
            // Everything that it ends has expired.
            return Ok(());
        }
        let mut tables = self.tables.write();
        tables.forget(now, self.lifetime());
        let is_known = tables.runtime.get(&issuer).is_some_and(|of_issuer| of_issuer.contains_key(&what));
        if !is_known && tables.len() >= self.capacity {
            return Err(RevocationError::Full(self.capacity));
        }
        tables.oldest = tables.oldest.min(before);
        insert(&mut tables.runtime, Revocation { issuer, what, before });
        self.has_entries.store(true, Ordering::Release);
        Ok(())
    }

    /// Refuses a new entry while only the operators' part is free: what users do must not stop an operator.
    pub fn check_users_part(&self, revocation: &Revocation, now: u64) -> Result<(), RevocationError> {
        let mut tables = self.tables.write();
        tables.forget(now, self.lifetime());
        let of_issuer = tables.runtime.get(&revocation.issuer);
        let is_known = of_issuer.is_some_and(|of_issuer| of_issuer.contains_key(&revocation.what));
        let users_part = self.capacity - self.capacity.div_ceil(OPERATORS_PART);
        if is_known || tables.len() < users_part { Ok(()) } else { Err(RevocationError::Full(users_part)) }
    }

    /// Entries that one person may add by logging out.
    pub fn share_of_person(&self) -> u64 {
        (self.capacity as u64 / PERSONS_PART).max(MIN_SHARE_OF_PERSON)
    }

    /// Replaces the entries of the file, or changes nothing if they exceed the capacity.
    pub fn replace_from_file(&self, list: Vec<Revocation>, now: u64) -> Result<(), RevocationError> {
        let mut from_file = Table::new();
        for revocation in list {
            if revocation.before > now.saturating_add(MAX_AHEAD_SECS) {
                return Err(RevocationError::Ahead);
            }
            insert(&mut from_file, revocation);
        }
        forget(&mut from_file, now, self.lifetime());
        let mut tables = self.tables.write();
        tables.forget(now, self.lifetime());
        if len(&from_file) + len(&tables.runtime) > self.capacity {
            return Err(RevocationError::Full(self.capacity));
        }
        tables.from_file = from_file;
        tables.oldest = 0;
        self.has_entries.store(tables.len() > 0, Ordering::Release);
        Ok(())
    }

    /// Whether a revocation ends this principal.
    pub fn revokes(&self, principal: &Principal) -> bool {
        if !self.has_entries.load(Ordering::Acquire) {
            return false;
        }
        let tables = self.tables.read();
        [&tables.runtime, &tables.from_file].into_iter().any(|table| ends(table, principal))
    }

    /// The revocations that were added at runtime.
    pub fn added(&self) -> Vec<Revocation> {
        entries(&self.tables.read().runtime)
    }

    /// All revocations in force, in a stable order.
    pub fn all(&self, now: u64) -> Vec<Revocation> {
        let mut tables = self.tables.write();
        tables.forget(now, self.lifetime());
        let mut all = [entries(&tables.runtime), entries(&tables.from_file)].concat();
        all.sort_by(|a, b| (a.before, &a.issuer, a.what.key()).cmp(&(b.before, &b.issuer, b.what.key())));
        all.dedup();
        all
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.tables.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops entries past their retention. Called regularly.
    pub fn sweep(&self, now: u64) {
        if self.has_entries.load(Ordering::Acquire) {
            let mut tables = self.tables.write();
            tables.forget(now, self.lifetime());
            self.has_entries.store(tables.len() > 0, Ordering::Release);
        }
    }

    /// Retention of an entry after its `before`, in seconds.
    pub fn lifetime(&self) -> u64 {
        self.lifetime.load(Ordering::Relaxed)
    }
}

impl Tables {
    fn len(&self) -> usize {
        len(&self.runtime) + len(&self.from_file)
    }

    /// Drops expired entries. Scans the tables only if one is due.
    fn forget(&mut self, now: u64, lifetime: u64) {
        if now <= self.oldest.saturating_add(lifetime) {
            return;
        }
        forget(&mut self.runtime, now, lifetime);
        forget(&mut self.from_file, now, lifetime);
        let moments = [&self.runtime, &self.from_file].into_iter().flat_map(HashMap::values).flat_map(HashMap::values);
        self.oldest = moments.copied().min().unwrap_or(u64::MAX);
    }
}

fn entries(table: &Table) -> Vec<Revocation> {
    let of_issuer = |(issuer, entries): (&Arc<str>, &HashMap<Revoked, u64>)| {
        let revocation = |(what, before): (&Revoked, &u64)| Revocation {
            issuer: issuer.clone(),
            what: what.clone(),
            before: *before,
        };
        entries.iter().map(revocation).collect::<Vec<_>>()
    };
    table.iter().flat_map(of_issuer).collect()
}

fn len(table: &Table) -> usize {
    table.values().map(HashMap::len).sum()
}

fn insert(table: &mut Table, revocation: Revocation) {
    let Revocation { issuer, what, before } = revocation;
    let known = table.entry(issuer).or_default().entry(what).or_insert(before);
    *known = before.max(*known);
}

fn forget(table: &mut Table, now: u64, lifetime: u64) {
    table.retain(|_, of_issuer| {
        of_issuer.retain(|_, before| now <= before.saturating_add(lifetime));
        !of_issuer.is_empty()
    });
}

fn ends(table: &Table, principal: &Principal) -> bool {
    let Some(of_issuer) = table.get(&principal.issuer) else { return false };
    let issued = principal.issued();
    let is_over = |what: Revoked| of_issuer.get(&what).is_some_and(|before| issued <= *before);
    let claim = |name: &str| principal.claims.get(name).and_then(|value| value.as_str()).map(Box::<str>::from);
    is_over(Revoked::Issuer)
        || is_over(Revoked::Subject((&*principal.subject).into()))
        || claim("sid").is_some_and(|sid| is_over(Revoked::Session(sid)))
        || claim("jti").is_some_and(|jti| is_over(Revoked::TokenId(jti)))
}

impl Revoked {
    /// The name of the selection on the wire, and its value.
    pub fn key(&self) -> (&'static str, &str) {
        match self {
            Self::Subject(subject) => ("subject", subject),
            Self::Session(session) => ("session", session),
            Self::TokenId(id) => ("token_id", id),
            Self::Issuer => ("everyone", ""),
        }
    }
}

/// A revocation in files and requests: `{"issuer", "subject" | "session" | "token_id" | "everyone": true,
/// "before"}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenRevocation {
    pub issuer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub everyone: bool,
    /// Seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

/// Longest issuer, subject, session or token id, in bytes. A token of 8 KiB is unlikely to have a longer claim.
const MAX_REVOKED_BYTES: usize = 2048;

impl WrittenRevocation {
    /// `now` replaces an absent `before`. The error is text for the operator.
    pub fn read(self, now: Option<u64>) -> Result<Revocation, &'static str> {
        let Self { issuer, subject, session, token_id, everyone, before } = self;
        let text = |text: String| {
            if text.is_empty() || text.len() > MAX_REVOKED_BYTES { None } else { Some(Box::<str>::from(text)) }
        };
        const BAD_TEXT: &str = "an entry is empty or longer than 2048 bytes";
        let issuer = text(issuer).ok_or(BAD_TEXT)?;
        let what = match (subject, session, token_id, everyone) {
            (Some(subject), None, None, false) => Revoked::Subject(text(subject).ok_or(BAD_TEXT)?),
            (None, Some(session), None, false) => Revoked::Session(text(session).ok_or(BAD_TEXT)?),
            (None, None, Some(id), false) => Revoked::TokenId(text(id).ok_or(BAD_TEXT)?),
            (None, None, None, true) => Revoked::Issuer,
            _ => return Err("exactly one of `subject`, `session`, `token_id` and `\"everyone\": true` is needed"),
        };
        let before = before.or(now).ok_or("`before` (seconds since 1970) is missing")?;
        Ok(Revocation { issuer: issuer.into(), what, before })
    }
}

impl From<Revocation> for WrittenRevocation {
    fn from(revocation: Revocation) -> Self {
        let Revocation { issuer, what, before } = revocation;
        let mut written = Self { issuer: issuer.to_string(), before: Some(before), ..Self::default() };
        match what {
            Revoked::Subject(subject) => written.subject = Some(subject.into()),
            Revoked::Session(session) => written.session = Some(session.into()),
            Revoked::TokenId(id) => written.token_id = Some(id.into()),
            Revoked::Issuer => written.everyone = true,
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn principal(claims: serde_json::Value) -> Principal {
        let serde_json::Value::Object(claims) = claims else { panic!("{claims}") };
        Principal {
            issuer: "https://a".into(),
            subject: "alice".into(),
            scopes: vec![],
            groups: vec![],
            claims,
            expires: NOW + 100,
        }
    }

    fn of(what: Revoked, before: u64) -> Revocation {
        Revocation { issuer: "https://a".into(), what, before }
    }

    fn revocations(capacity: usize) -> Revocations {
        let revocations = Revocations::new(capacity);
        revocations.keep_for(100);
        revocations
    }

    #[test]
    fn ends_principals_issued_before() {
        for (what, claim) in [
            (Revoked::Subject("alice".into()), json!({})),
            (Revoked::Session("s1".into()), json!({"sid": "s1"})),
            (Revoked::TokenId("t1".into()), json!({"jti": "t1"})),
            (Revoked::Issuer, json!({})),
        ] {
            let revocations = revocations(10);
            let with = |issued: serde_json::Value| {
                let mut claims = claim.clone();
                claims["iat"] = issued;
                principal(claims)
            };
            assert!(!revocations.revokes(&with(json!(NOW))));
            revocations.add(of(what.clone(), NOW), NOW).unwrap();
            assert!(revocations.revokes(&with(json!(NOW - 1))), "{what:?}");
            assert!(revocations.revokes(&with(json!(NOW))), "{what:?}");
            assert!(!revocations.revokes(&with(json!(NOW + 1))), "{what:?}");
            assert!(revocations.revokes(&principal(claim.clone())), "without iat: {what:?}");
            assert!(revocations.revokes(&with(json!("soon"))), "iat of a wrong type: {what:?}");
        }
    }

    #[test]
    fn other_principals_are_unaffected() {
        let revocations = revocations(10);
        revocations.add(of(Revoked::Subject("bob".into()), NOW), NOW).unwrap();
        revocations.add(of(Revoked::Session("alice".into()), NOW), NOW).unwrap();
        revocations.add(of(Revoked::TokenId("s1".into()), NOW), NOW).unwrap();
        let elsewhere = Revocation { issuer: "https://b".into(), ..of(Revoked::Subject("alice".into()), NOW) };
        revocations.add(elsewhere, NOW).unwrap();
        assert!(!revocations.revokes(&principal(json!({"sid": "s1", "jti": ["t1"], "iat": NOW}))));
    }

    #[test]
    fn full_table_refuses_new_entries() {
        let revocations = revocations(2);
        let subject = |name: &str, before| of(Revoked::Subject(name.into()), before);
        revocations.add(subject("alice", NOW), NOW).unwrap();
        revocations.add(subject("bob", NOW), NOW).unwrap();
        assert_eq!(revocations.add(subject("carol", NOW), NOW), Err(RevocationError::Full(2)));
        // A known entry may become later, never earlier.
        revocations.add(subject("alice", NOW + 10), NOW + 10).unwrap();
        revocations.add(subject("alice", NOW + 5), NOW + 10).unwrap();
        assert!(revocations.revokes(&principal(json!({"iat": NOW + 10}))));
        // The entry for bob has expired.
        revocations.add(subject("carol", NOW + 101), NOW + 101).unwrap();
        assert_eq!(revocations.len(), 2);
        revocations.sweep(NOW + 1000);
        assert!(revocations.is_empty() && !revocations.revokes(&principal(json!({}))));
    }

    #[test]
    fn reload_replaces_file_entries_only() {
        let revocations = revocations(3);
        revocations.add(of(Revoked::Session("s1".into()), NOW), NOW).unwrap();
        revocations.replace_from_file(vec![of(Revoked::Subject("alice".into()), NOW)], NOW).unwrap();
        assert!(revocations.revokes(&principal(json!({}))));
        let many = (0..3).map(|n| of(Revoked::Subject(n.to_string().into()), NOW)).collect();
        assert_eq!(revocations.replace_from_file(many, NOW), Err(RevocationError::Full(3)));
        assert!(revocations.revokes(&principal(json!({}))), "previous entries stay");
        revocations.replace_from_file(vec![], NOW).unwrap();
        assert!(!revocations.revokes(&principal(json!({}))));
        assert!(revocations.revokes(&principal(json!({"sid": "s1"}))));
        assert_eq!(revocations.all(NOW).len(), 1);
    }

    #[test]
    fn future_revocations_are_refused() {
        let revocations = revocations(3);
        assert_eq!(revocations.add(of(Revoked::Issuer, u64::MAX), NOW), Err(RevocationError::Ahead));
        assert_eq!(
            revocations.replace_from_file(vec![of(Revoked::Issuer, NOW + 61)], NOW),
            Err(RevocationError::Ahead)
        );
        revocations.add(of(Revoked::Issuer, NOW + 60), NOW).unwrap();
    }

    #[test]
    fn written_form_selects_one_thing() {
        let read = |value| serde_json::from_value::<WrittenRevocation>(value).map(|written| written.read(Some(NOW)));
        let good = read(json!({"issuer": "https://a", "subject": "alice"})).unwrap().unwrap();
        assert_eq!(good, of(Revoked::Subject("alice".into()), NOW));
        let again = serde_json::to_value(WrittenRevocation::from(good.clone())).unwrap();
        assert_eq!(again, json!({"issuer": "https://a", "subject": "alice", "before": NOW}));
        assert_eq!(read(again).unwrap(), Ok(good));
        for bad in [
            json!({"issuer": "https://a"}),
            json!({"issuer": "https://a", "everyone": false}),
            json!({"issuer": "https://a", "subject": "alice", "session": "s"}),
            json!({"issuer": "https://a", "subject": "alice", "everyone": true}),
            json!({"issuer": "", "everyone": true}),
            json!({"issuer": "https://a", "subject": ""}),
            json!({"issuer": "https://a", "subject": "x".repeat(3000)}),
        ] {
            assert!(read(bad.clone()).unwrap().is_err(), "{bad}");
        }
        assert!(read(json!({"issuer": "https://a", "sub": "alice"})).is_err());
        assert!(WrittenRevocation { issuer: "a".into(), everyone: true, ..Default::default() }.read(None).is_err());
    }
}
