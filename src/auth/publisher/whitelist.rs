//! Who may publish: the keys, what each may use, and what is remembered of each.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::replay::ReplayWindow;
use super::{BasicConfig, PasswordHash, PublisherConfig, PublisherKey};
use crate::auth::keys::Fingerprint;
use crate::broker::RateLimit;
use crate::protocol::{ChannelName, ErrorCode, Pattern, Refusal};

/// The publishers by the fingerprint of their key, and by the user name of those with a password. A reload makes a new one with [`Whitelist::rebuild`].
#[derive(Debug)]
pub struct Whitelist {
    publishers: HashMap<Fingerprint, Arc<Publisher>>,
    users: HashMap<String, Arc<Publisher>>,
    replay_nonces: usize,
}

/// One key, or one user name, is on the whitelist under two names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateKey {
    pub first: String,
    pub second: String,
}

impl Whitelist {
    /// `replay_nonces` is how many nonces are remembered for each publisher.
    pub fn new(configs: Vec<PublisherConfig>, replay_nonces: usize) -> Result<Self, DuplicateKey> {
        Self { publishers: HashMap::new(), users: HashMap::new(), replay_nonces }.rebuild(configs)
    }

    /// The whitelist of a new configuration. Keys that are on both keep their replay window, and their rate limit
    /// where it is the same one; the state is shared with requests that are still under way on the old whitelist.
    pub fn rebuild(&self, configs: Vec<PublisherConfig>) -> Result<Self, DuplicateKey> {
        let mut new = Self {
            publishers: HashMap::with_capacity(configs.len()),
            users: HashMap::new(),
            replay_nonces: self.replay_nonces,
        };
        for config in configs {
            let fingerprint = config.key.as_ref().map(PublisherKey::fingerprint);
            let username = config.basic.as_ref().map(|basic| basic.username.clone());
            if let Some(first) = new.find_either(fingerprint.as_ref(), username.as_deref()) {
                return Err(DuplicateKey { first: first.name.to_string(), second: config.name });
            }
            let known = self.find_either(fingerprint.as_ref(), username.as_deref());
            let publisher = Arc::new(Publisher::new(config, known, self.replay_nonces));
            if let Some(username) = username {
                new.users.insert(username, publisher.clone());
            }
            if let Some(fingerprint) = fingerprint {
                new.publishers.insert(fingerprint, publisher);
            }
        }
        Ok(new)
    }

    fn find_either(&self, fingerprint: Option<&Fingerprint>, username: Option<&str>) -> Option<&Arc<Publisher>> {
        let by_key = fingerprint.and_then(|fingerprint| self.publishers.get(fingerprint));
        by_key.or_else(|| username.and_then(|username| self.users.get(username)))
    }

    pub fn get(&self, fingerprint: &Fingerprint) -> Option<&Arc<Publisher>> {
        self.publishers.get(fingerprint)
    }

    /// The publisher with a password that has this user name.
    pub fn user(&self, username: &str) -> Option<&Arc<Publisher>> {
        self.users.get(username)
    }

    /// The hash that costs most of all: what is checked for a user that does not exist.
    pub fn costliest_hash(&self) -> Option<&PasswordHash> {
        self.users.values().filter_map(|publisher| publisher.password()).max_by_key(|hash| hash.cost())
    }

    pub fn publishers(&self) -> impl Iterator<Item = &Arc<Publisher>> {
        self.publishers.values()
    }
}

/// A key on the whitelist and what is remembered of it.
#[derive(Debug)]
pub struct Publisher {
    name: Arc<str>,
    pub(super) key: Option<PublisherKey>,
    basic: Option<BasicConfig>,
    channels: Vec<Pattern>,
    control: bool,
    not_after: Option<jiff::Timestamp>,
    /// 0 for no limit.
    per_second: u32,
    replay: Arc<Mutex<ReplayWindow>>,
    rate: Arc<Mutex<RateLimit>>,
}

impl Publisher {
    fn new(config: PublisherConfig, known: Option<&Arc<Publisher>>, replay_nonces: usize) -> Self {
        let PublisherConfig { name, key, basic, channels, control, not_after, rate_limit_per_second } = config;
        let per_second = rate_limit_per_second.unwrap_or(0);
        let replay = known.map_or_else(|| Arc::new(Mutex::new(ReplayWindow::new(replay_nonces))), |p| p.replay.clone());
        let rate = known
            .filter(|publisher| publisher.per_second == per_second)
            .map_or_else(|| Arc::new(Mutex::new(RateLimit::new(per_second, per_second))), |p| p.rate.clone());
        Self { name: name.into(), key, basic, channels, control, not_after, per_second, replay, rate }
    }

    /// The name that the configuration gives it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The fingerprint of its key, if it has one.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.key.as_ref().map(PublisherKey::fingerprint)
    }

    /// What its password is checked with, if it has one.
    pub fn password(&self) -> Option<&PasswordHash> {
        self.basic.as_ref().map(|basic| &basic.hash)
    }

    /// From this moment on the key is refused.
    pub fn not_after(&self) -> Option<jiff::Timestamp> {
        self.not_after
    }

    /// Whether it may create this channel and publish to it.
    pub fn may_use(&self, channel: &ChannelName) -> bool {
        self.channels.iter().any(|pattern| pattern.matches(channel))
    }

    /// Whether it may push keys of issuers, channel rules and revocations.
    pub fn may_control(&self) -> bool {
        self.control
    }

    /// Counts one publication against the rate limit; refuses with `rate-limited` and when to try again.
    pub fn check_rate(&self, now: Instant) -> Result<(), Refusal> {
        self.rate.lock().try_take(now).map_err(|wait| {
            Refusal::new(ErrorCode::RateLimited, "This key publishes faster than it may.").retry_after(wait)
        })
    }

    /// Refuses with `key-expired`. Ask again now and then on a connection that lives long.
    pub fn check_not_after(&self, now_unix_secs: u64) -> Result<(), Refusal> {
        let is_ahead = |end: jiff::Timestamp| u64::try_from(end.as_second()).is_ok_and(|end| now_unix_secs < end);
        match self.not_after {
            Some(end) if !is_ahead(end) => Err(Refusal::new(
                ErrorCode::KeyExpired,
                "The `not_after` of this key on the whitelist has passed. Give the operator a new key, or ask for more time.",
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn use_nonce(&self, created: u64, nonce: &str, now: u64) -> Result<(), Refusal> {
        self.replay.lock().insert(created, nonce, now)
    }
}

impl fmt::Display for DuplicateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, second } = self;
        write!(f, "the publishers `{first}` and `{second}` have the same key or user name; each may stand once only")
    }
}

impl std::error::Error for DuplicateKey {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::auth::keys::generate;

    const NOW: u64 = 1_800_000_000;

    fn config(name: &str, key: PublisherKey, per_second: Option<u32>) -> PublisherConfig {
        PublisherConfig {
            name: name.into(),
            key: Some(key),
            basic: None,
            channels: vec![Pattern::new("prices.*"), Pattern::new("status")],
            control: false,
            not_after: None,
            rate_limit_per_second: per_second,
        }
    }

    fn key() -> PublisherKey {
        PublisherKey::Known(generate().unwrap().verifying_key())
    }

    #[test]
    fn one_key_under_two_names_is_an_error_that_names_both() {
        let key = key();
        let configs = vec![
            config("market-data", key.clone(), None),
            config("other", self::key(), None),
            config("backup", PublisherKey::Hash(key.fingerprint()), None),
        ];
        let error = Whitelist::new(configs, 10).unwrap_err();
        assert_eq!(error, DuplicateKey { first: "market-data".into(), second: "backup".into() });
        assert!(error.to_string().contains("`market-data`") && error.to_string().contains("`backup`"));
    }

    #[test]
    fn a_publisher_may_use_its_own_channels_only() {
        let key = key();
        let whitelist = Whitelist::new(vec![config("market-data", key.clone(), None)], 10).unwrap();
        let publisher = whitelist.get(&key.fingerprint()).unwrap();
        for (channel, allowed) in [("prices.btc", true), ("status", true), ("status2", false), ("alerts", false)] {
            assert_eq!(publisher.may_use(&ChannelName::parse(channel).unwrap()), allowed, "{channel}");
        }
    }

    #[test]
    fn t_s4_a_reload_forgets_no_nonce_and_no_debt() {
        let key = key();
        let old = Whitelist::new(vec![config("a", key.clone(), Some(1))], 10).unwrap();
        let now = Instant::now();
        let publisher = old.get(&key.fingerprint()).unwrap();
        publisher.use_nonce(NOW, "nonce", NOW).unwrap();
        publisher.check_rate(now).unwrap();

        // Under another name, and known by hash alone: it is the key that counts.
        let hash = PublisherKey::Hash(key.fingerprint());
        let new = old.rebuild(vec![config("b", hash, Some(1)), config("c", self::key(), None)]).unwrap();
        let reloaded = new.get(&key.fingerprint()).unwrap();
        assert_eq!(&**reloaded.name(), "b");
        assert_eq!(reloaded.use_nonce(NOW, "nonce", NOW).unwrap_err().code, ErrorCode::SignatureReplayed);
        assert_eq!(reloaded.check_rate(now).unwrap_err().code, ErrorCode::RateLimited);

        // A request that began before the reload counts on the new whitelist as well.
        publisher.use_nonce(NOW, "in flight", NOW).unwrap();
        assert_eq!(reloaded.use_nonce(NOW, "in flight", NOW).unwrap_err().code, ErrorCode::SignatureReplayed);
    }

    #[test]
    fn a_reload_takes_away_what_is_no_longer_listed_and_changes_limits() {
        let (gone, stays) = (key(), key());
        let old = Whitelist::new(vec![config("gone", gone.clone(), None), config("stays", stays.clone(), Some(1))], 10)
            .unwrap();
        let new = old.rebuild(vec![config("stays", stays.clone(), Some(2))]).unwrap();
        assert!(new.get(&gone.fingerprint()).is_none());
        assert_eq!(new.publishers().count(), 1);
        let (publisher, now) = (new.get(&stays.fingerprint()).unwrap(), Instant::now());
        assert!(publisher.check_rate(now).is_ok() && publisher.check_rate(now).is_ok());
        assert!(publisher.check_rate(now).is_err());
    }

    #[test]
    fn a_rate_limit_says_when_to_try_again() {
        let key = key();
        let whitelist = Whitelist::new(vec![config("a", key.clone(), Some(2))], 10).unwrap();
        let (publisher, now) = (whitelist.get(&key.fingerprint()).unwrap(), Instant::now());
        assert!(publisher.check_rate(now).is_ok() && publisher.check_rate(now).is_ok());
        let refusal = publisher.check_rate(now).unwrap_err();
        assert_eq!((refusal.code, refusal.retry_after), (ErrorCode::RateLimited, Some(Duration::from_millis(500))));
        assert!(publisher.check_rate(now + Duration::from_millis(500)).is_ok());
    }

    #[test]
    fn a_key_is_refused_from_its_last_moment_on() {
        let key = key();
        let end = |second| Some(jiff::Timestamp::from_second(second).unwrap());
        for (not_after, expected) in
            [(None, true), (end(NOW as i64 + 1), true), (end(NOW as i64), false), (end(-1), false)]
        {
            let config = PublisherConfig { not_after, ..config("a", key.clone(), None) };
            let whitelist = Whitelist::new(vec![config], 10).unwrap();
            let checked = whitelist.get(&key.fingerprint()).unwrap().check_not_after(NOW);
            assert_eq!(checked.is_ok(), expected, "{not_after:?}");
            assert!(checked.is_ok() || checked.unwrap_err().code == ErrorCode::KeyExpired);
        }
    }
}
