//! The whitelist: publishers with their keys, channels, rate limits and replay windows.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::replay::ReplayWindow;
use super::signature::MAX_SKEW_SECS;
use super::{BasicConfig, PasswordHash, PublisherConfig, PublisherKey};
use crate::auth::keys::Fingerprint;
use crate::broker::{Engine, RateLimit};
use crate::protocol::{ChannelName, ErrorCode, Pattern, Refusal};

/// Publishers by key fingerprint, and by user name for those with a password.
///
/// A reload replaces the whitelist by means of [`Whitelist::rebuild`].
#[derive(Debug)]
pub struct Whitelist {
    publishers: HashMap<Fingerprint, Arc<Publisher>>,
    users: HashMap<String, Arc<Publisher>>,
    replay_nonces: usize,
    /// `None` before [`Whitelist::continue_from`].
    history: Option<NonceHistory>,
    /// Windows of removed keys, and when they were removed.
    retired: HashMap<Fingerprint, (SharedWindow, Instant)>,
}

/// How long the window of a removed key is kept: as long as a signature that was accepted can be fresh.
const RETIRED_WINDOW_TTL: Duration = Duration::from_secs(2 * MAX_SKEW_SECS + 1);

type SharedWindow = Arc<Mutex<ReplayWindow>>;

/// Knowledge of the nonces that earlier processes accepted.
#[derive(Clone)]
struct NonceHistory {
    engine: Arc<dyn Engine>,
    /// Start of this process, in seconds since 1970.
    start: u64,
}

/// Two publishers have the same key or user name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the publishers `{first}` and `{second}` have the same key or user name")]
pub struct DuplicateKey {
    pub first: String,
    pub second: String,
}

impl Whitelist {
    /// `replay_nonces`: size of each publisher's replay window.
    pub fn new(configs: Vec<PublisherConfig>, replay_nonces: usize) -> Result<Self, DuplicateKey> {
        let none = Self {
            publishers: HashMap::new(),
            users: HashMap::new(),
            replay_nonces,
            history: None,
            retired: HashMap::new(),
        };
        none.rebuild(configs)
    }

    /// Refuses signatures that earlier processes may have accepted. `start` in seconds since 1970.
    ///
    /// Returns the newest `created` of a signature that is refused, after which every signature is accepted.
    pub fn continue_from(&mut self, engine: Arc<dyn Engine>, start: u64) -> u64 {
        let history = NonceHistory { engine, start };
        let of_publishers = self.publishers.iter();
        let newest = of_publishers.map(|(key, publisher)| history.apply(key, &mut publisher.replay.lock())).max();
        self.history = Some(history);
        newest.unwrap_or(0)
    }

    /// The whitelist of a new configuration. Keys in both keep their replay window, also if they were removed in between,
    /// and their rate limit if it did not change. Both share this state with requests in flight on the old whitelist.
    pub fn rebuild(&self, configs: Vec<PublisherConfig>) -> Result<Self, DuplicateKey> {
        let now = Instant::now();
        let mut new = Self {
            publishers: HashMap::with_capacity(configs.len()),
            users: HashMap::new(),
            replay_nonces: self.replay_nonces,
            history: self.history.clone(),
            retired: self.retired.clone(),
        };
        new.retired.retain(|_, (_, removed)| now.duration_since(*removed) < RETIRED_WINDOW_TTL);
        for config in configs {
            let fingerprint = config.key.as_ref().map(PublisherKey::fingerprint);
            let username = config.basic.as_ref().map(|basic| basic.username.clone());
            if let Some(first) = new.find_either(fingerprint.as_ref(), username.as_deref()) {
                return Err(DuplicateKey { first: first.name.to_string(), second: config.name });
            }
            let known = self.find_either(fingerprint.as_ref(), username.as_deref());
            let replay = self.window_of(fingerprint.as_ref());
            let publisher = Arc::new(Publisher::new(config, known, replay));
            if let Some(username) = username {
                new.users.insert(username, publisher.clone());
            }
            if let Some(fingerprint) = fingerprint {
                new.retired.remove(&fingerprint);
                new.publishers.insert(fingerprint, publisher);
            }
        }
        for (fingerprint, publisher) in &self.publishers {
            if !new.publishers.contains_key(fingerprint) {
                new.retired.insert(*fingerprint, (publisher.replay.clone(), now));
            }
        }
        Ok(new)
    }

    /// The replay window of a key: the one that it had, or a new one.
    fn window_of(&self, fingerprint: Option<&Fingerprint>) -> SharedWindow {
        let current = fingerprint.and_then(|key| self.publishers.get(key)).map(|publisher| &publisher.replay);
        let retired = || fingerprint.and_then(|key| self.retired.get(key)).map(|(window, _)| window);
        if let Some(known) = current.or_else(retired) {
            return known.clone();
        }
        let mut window = ReplayWindow::new(self.replay_nonces);
        if let (Some(history), Some(fingerprint)) = (&self.history, fingerprint) {
            history.apply(fingerprint, &mut window);
        }
        Arc::new(Mutex::new(window))
    }

    fn find_either(&self, fingerprint: Option<&Fingerprint>, username: Option<&str>) -> Option<&Arc<Publisher>> {
        let by_key = fingerprint.and_then(|fingerprint| self.publishers.get(fingerprint));
        by_key.or_else(|| username.and_then(|username| self.users.get(username)))
    }

    pub fn get(&self, fingerprint: &Fingerprint) -> Option<&Arc<Publisher>> {
        self.publishers.get(fingerprint)
    }

    /// The publisher with this key, unless the key has expired.
    pub fn admit(&self, key: &Fingerprint, now_unix_secs: u64) -> Result<&Arc<Publisher>, Refusal> {
        let publisher = self.get(key).ok_or_else(|| {
            Refusal::new(ErrorCode::KeyUnknown, "key is not on the whitelist; send its fingerprint to the operator")
        })?;
        publisher.check_not_after(now_unix_secs)?;
        Ok(publisher)
    }

    /// The publisher with the key of `known`, which was admitted a while ago: a reload may have changed or removed it.
    pub fn renew(&self, known: &Publisher, now_unix_secs: u64) -> Result<Arc<Publisher>, Refusal> {
        self.admit(&known.fingerprint().ok_or(ErrorCode::KeyUnknown)?, now_unix_secs).cloned()
    }

    /// The same by user name and password.
    pub fn renew_user(&self, known: &Publisher, now_unix_secs: u64) -> Result<Arc<Publisher>, Refusal> {
        let BasicConfig { username, hash } = known.basic.as_ref().ok_or(ErrorCode::Unauthenticated)?;
        let user = self.user(username).filter(|user| user.password().is_some_and(|now| now.text() == hash.text()));
        let user = user.ok_or(ErrorCode::Unauthenticated)?;
        user.check_not_after(now_unix_secs)?;
        Ok(user.clone())
    }

    /// The publisher with this user name and a password.
    pub fn user(&self, username: &str) -> Option<&Arc<Publisher>> {
        self.users.get(username)
    }

    /// The most expensive hash, which is verified for an unknown user.
    pub fn costliest_hash(&self) -> Option<&PasswordHash> {
        self.users.values().filter_map(|publisher| publisher.password()).max_by_key(|hash| hash.cost())
    }

    /// Whether clients without a key may publish to the channel, of those that the operator listed for them. A channel that
    /// a publisher may use is the publisher's own, unless a listed pattern is no wider than the publisher's.
    pub fn leaves_to(&self, listed: &[Pattern], channel: &ChannelName) -> bool {
        let listed: Vec<_> = listed.iter().filter(|pattern| pattern.matches(channel)).collect();
        let held = self.publishers.values().chain(self.users.values()).flat_map(|publisher| &publisher.channels);
        let mut held = held.filter(|held| held.matches(channel));
        !listed.is_empty() && held.all(|held| listed.iter().any(|pattern| held.includes(pattern)))
    }

    pub fn publishers(&self) -> impl Iterator<Item = &Arc<Publisher>> {
        self.publishers.values()
    }
}

impl NonceHistory {
    /// Returns the newest `created` that the window refuses from now on.
    fn apply(&self, fingerprint: &Fingerprint, window: &mut ReplayWindow) -> u64 {
        match self.engine.shared_store().forgotten_nonces(&fingerprint.to_string()) {
            Some(0) => 0,
            Some(newest) => {
                window.forget_before(newest + 1);
                newest
            }
            None => {
                window.forget_until(self.start);
                self.start.saturating_sub(1)
            }
        }
    }
}

impl fmt::Debug for NonceHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NonceHistory({})", self.start)
    }
}

/// A publisher on the whitelist, with its replay window and rate limit.
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
    replay: SharedWindow,
    rate: Arc<Mutex<RateLimit>>,
}

impl Publisher {
    fn new(config: PublisherConfig, known: Option<&Arc<Publisher>>, replay: SharedWindow) -> Self {
        let PublisherConfig { name, key, basic, channels, control, not_after, rate_limit_per_second } = config;
        let per_second = rate_limit_per_second.unwrap_or(0);
        let rate = known
            .filter(|publisher| publisher.per_second == per_second)
            .map_or_else(|| Arc::new(Mutex::new(RateLimit::new(per_second, per_second))), |p| p.rate.clone());
        Self { name: name.into(), key, basic, channels, control, not_after, per_second, replay, rate }
    }

    /// The configured name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The fingerprint of its key, if it has one.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.key.as_ref().map(PublisherKey::fingerprint)
    }

    /// The hash of its password, if it has one.
    pub fn password(&self) -> Option<&PasswordHash> {
        self.basic.as_ref().map(|basic| &basic.hash)
    }

    /// The key is refused from this time on.
    pub fn not_after(&self) -> Option<jiff::Timestamp> {
        self.not_after
    }

    /// The same in seconds since 1970.
    pub fn expires(&self) -> Option<u64> {
        self.not_after.map(|end| u64::try_from(end.as_second()).unwrap_or(0))
    }

    /// Whether it may create this channel and publish to it.
    pub fn may_use(&self, channel: &ChannelName) -> bool {
        self.channels.iter().any(|pattern| pattern.matches(channel))
    }

    /// Whether it may push issuer keys, channel rules and revocations.
    pub fn may_control(&self) -> bool {
        self.control
    }

    /// Counts one publication against the rate limit. Refuses with `rate-limited` and the time to retry.
    pub fn check_rate(&self, now: Instant) -> Result<(), Refusal> {
        self.rate.lock().try_take(now).map_err(|wait| {
            Refusal::new(ErrorCode::RateLimited, "publisher exceeds its rate limit (rate_limit_per_second)")
                .retry_after(wait)
        })
    }

    /// Refuses with `key-expired`.
    pub fn check_not_after(&self, now_unix_secs: u64) -> Result<(), Refusal> {
        match self.expires() {
            Some(end) if now_unix_secs >= end => Err(Refusal::new(
                ErrorCode::KeyExpired,
                "`not_after` of this key has passed; ask the operator to extend it, or send a new key",
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn use_nonce(&self, created: u64, nonce: &str, now: u64) -> Result<(), Refusal> {
        self.replay.lock().insert(created, nonce, now)
    }
}

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
    fn duplicate_key_names_both_publishers() {
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
    fn publisher_uses_only_its_channels() {
        let key = key();
        let whitelist = Whitelist::new(vec![config("market-data", key.clone(), None)], 10).unwrap();
        let publisher = whitelist.get(&key.fingerprint()).unwrap();
        for (channel, allowed) in [("prices.btc", true), ("status", true), ("status2", false), ("alerts", false)] {
            assert_eq!(publisher.may_use(&ChannelName::parse(channel).unwrap()), allowed, "{channel}");
        }
    }

    #[test]
    fn reload_keeps_nonces_and_rate() {
        let key = key();
        let old = Whitelist::new(vec![config("a", key.clone(), Some(1))], 10).unwrap();
        let now = Instant::now();
        let publisher = old.get(&key.fingerprint()).unwrap();
        publisher.use_nonce(NOW, "nonce", NOW).unwrap();
        publisher.check_rate(now).unwrap();

        // The same key under another name, and by fingerprint.
        let hash = PublisherKey::Hash(key.fingerprint());
        let new = old.rebuild(vec![config("b", hash, Some(1)), config("c", self::key(), None)]).unwrap();
        let reloaded = new.get(&key.fingerprint()).unwrap();
        assert_eq!(&**reloaded.name(), "b");
        assert_eq!(reloaded.use_nonce(NOW, "nonce", NOW).unwrap_err().code, ErrorCode::SignatureReplayed);
        assert_eq!(reloaded.check_rate(now).unwrap_err().code, ErrorCode::RateLimited);

        // A request from before the reload counts on the new whitelist too.
        publisher.use_nonce(NOW, "in flight", NOW).unwrap();
        assert_eq!(reloaded.use_nonce(NOW, "in flight", NOW).unwrap_err().code, ErrorCode::SignatureReplayed);
    }

    #[test]
    fn restored_key_keeps_its_nonces() {
        let (key, other) = (key(), key());
        let with =
            |keys: &[&PublisherKey]| keys.iter().map(|key| config("a", (*key).clone(), None)).collect::<Vec<_>>();
        let first = Whitelist::new(with(&[&key]), 10).unwrap();
        first.get(&key.fingerprint()).unwrap().use_nonce(NOW, "nonce", NOW).unwrap();
        let without = first.rebuild(with(&[&other])).unwrap().rebuild(Vec::new()).unwrap();
        assert!(without.get(&key.fingerprint()).is_none());
        let restored = without.rebuild(with(&[&key])).unwrap();
        let again = restored.get(&key.fingerprint()).unwrap().use_nonce(NOW, "nonce", NOW);
        assert_eq!(again.unwrap_err().code, ErrorCode::SignatureReplayed);
        assert!(
            restored.retired.contains_key(&other.fingerprint()) && !restored.retired.contains_key(&key.fingerprint())
        );
    }

    #[test]
    fn reload_removes_publishers_and_changes_limits() {
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
    fn rate_limit_has_retry_after() {
        let key = key();
        let whitelist = Whitelist::new(vec![config("a", key.clone(), Some(2))], 10).unwrap();
        let (publisher, now) = (whitelist.get(&key.fingerprint()).unwrap(), Instant::now());
        assert!(publisher.check_rate(now).is_ok() && publisher.check_rate(now).is_ok());
        let refusal = publisher.check_rate(now).unwrap_err();
        assert_eq!((refusal.code, refusal.retry_after), (ErrorCode::RateLimited, Some(Duration::from_millis(500))));
        assert!(publisher.check_rate(now + Duration::from_millis(500)).is_ok());
    }

    #[test]
    fn expired_key_is_refused() {
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
