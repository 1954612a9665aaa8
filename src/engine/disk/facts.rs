//! The facts of the store's ledger, in memory: what a restart must not forget, such as revocations and used signatures.
//!
//! Memory holds all facts, also those that are still being written, so that a store that failed can be written again. A
//! fact that was refused may therefore be in force; every fact takes a right away, so that is the safe side.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

/// Name of the fact that is the store's identity, of 128 random bits.
const IDENTITY: &str = "identity";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Seconds since 1970.
    expires: u64,
    pub value: Bytes,
    /// Whether it is on the disk.
    pub is_written: bool,
}

pub struct Facts {
    by_name: BTreeMap<String, Fact>,
    identity: String,
    /// Whether an earlier process kept its facts here.
    is_continued: bool,
    /// Lower bound of `expires` over all facts.
    first_expiry: u64,
}

impl Fact {
    pub fn new(value: Bytes, expires: u64) -> Self {
        Self { expires, value, is_written: false }
    }

    pub fn to_row(&self) -> Vec<u8> {
        [&self.expires.to_le_bytes(), &self.value[..]].concat()
    }

    pub fn from_row(row: &[u8]) -> Option<Self> {
        let (expires, value) = row.split_first_chunk()?;
        Some(Self { expires: u64::from_le_bytes(*expires), value: Bytes::copy_from_slice(value), is_written: true })
    }

    /// The value as a decimal number.
    pub fn number(&self) -> u64 {
        std::str::from_utf8(&self.value).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

impl Facts {
    /// The facts of a store, which gets an identity if it has none. An error means that the system returned no random bytes.
    pub fn new(stored: Vec<(String, Fact)>) -> Result<Self, io::Error> {
        let mut by_name: BTreeMap<_, _> = stored.into_iter().collect();
        let known = by_name.remove(IDENTITY);
        let is_continued = known.is_some();
        let identity = match known {
            Some(fact) => String::from_utf8_lossy(&fact.value).into_owned(),
            None => {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).map_err(io::Error::other)?;
                format!("{:032x}", u128::from_be_bytes(bytes))
            }
        };
        Ok(Self { by_name, identity, is_continued, first_expiry: 0 })
    }

    /// Removes the expired facts and returns their names.
    pub fn take_expired(&mut self, now: u64) -> Vec<String> {
        if now < self.first_expiry {
            return Vec::new();
        }
        let expired = self.by_name.extract_if(.., |_, fact| fact.expires <= now).map(|(name, _)| name).collect();
        self.first_expiry = self.by_name.values().map(|fact| fact.expires).min().unwrap_or(u64::MAX);
        expired
    }

    /// All facts, the identity among them.
    pub fn all(&self) -> Vec<(String, Fact)> {
        let facts = self.by_name.iter().map(|(name, fact)| (name.clone(), fact.clone()));
        facts.chain([(IDENTITY.to_owned(), self.identity_fact())]).collect()
    }

    /// The identity as a fact, with its name, for a store that has none yet.
    pub fn first_fact(&self) -> Option<(String, Fact)> {
        (!self.is_continued).then(|| (IDENTITY.to_owned(), self.identity_fact()))
    }

    /// Whether an earlier process kept its facts here.
    pub fn is_continued(&self) -> bool {
        self.is_continued
    }

    pub fn identity(&self) -> &str {
        &self.identity
    }

    pub fn get(&self, name: &str) -> Option<&Fact> {
        self.by_name.get(name)
    }

    /// The facts whose name has this prefix, in the order of their names.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Fact)> {
        self.by_name.range(prefix.to_owned()..).take_while(move |(name, _)| name.starts_with(prefix))
    }

    /// Records that a fact is on the disk, if it is still this one.
    pub fn mark_written(&mut self, name: &str, fact: &Fact) {
        if let Some(known) = self.by_name.get_mut(name).filter(|known| *known == fact) {
            known.is_written = true;
        }
    }

    fn identity_fact(&self) -> Fact {
        Fact::new(self.identity.clone().into(), u64::MAX)
    }

    pub fn insert(&mut self, name: &str, fact: Fact) {
        self.first_expiry = self.first_expiry.min(fact.expires);
        self.by_name.insert(name.to_owned(), fact);
    }
}
