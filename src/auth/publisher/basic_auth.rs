//! Who may pass with a password: few verifications at once, failures limited by address, and a memory of those who
//! passed, so that a publisher costs a hash of a few bytes and not of many megabytes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::{PasswordHash, Publisher, Whitelist};
use crate::broker::RateLimit;
use crate::protocol::{ErrorCode, Refusal};

/// Verifications at once: each takes a core and its memory.
const MAX_CONCURRENT_HASHES: usize = 2;

/// Requests that wait for a verification.
const MAX_QUEUED_HASHES: usize = 1024;

/// Failures of one client address: a second, and at once.
const FAILURES_PER_SECOND: u32 = 1;
const FAILURE_BURST: u32 = 20;

/// Addresses whose failures are remembered; those beyond share one limit.
const MAX_FAILURE_ADDRESSES: usize = 10_000;

/// Who passed passes again without a verification for so long after the last time.
const CREDENTIAL_CACHE_TTL: Duration = Duration::from_secs(300);

/// Credentials that are remembered. Only good ones get in, so there are few.
const MAX_CACHED_CREDENTIALS: usize = 10_000;

/// Shared with the verifications that are under way.
pub struct PasswordVerifier(Arc<Inner>);

struct Inner {
    /// Of this process alone; without randomness nothing is remembered.
    secret: Option<hmac::Key>,
    passed: Mutex<HashMap<Digest, Instant>>,
    failures: Mutex<HashMap<IpAddr, Failures>>,
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

/// User name, password and the hash that verified it, under the secret: a new hash makes what was known worthless.
type Digest = [u8; 32];

struct Failures {
    limit: RateLimit,
    last: Instant,
}

impl Default for PasswordVerifier {
    fn default() -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        let secret = getrandom::fill(&mut *secret).ok().map(|()| hmac::Key::new(hmac::HMAC_SHA256, &*secret));
        Self(Arc::new(Inner {
            secret,
            passed: Mutex::default(),
            failures: Mutex::default(),
            turns: Arc::new(Semaphore::new(MAX_CONCURRENT_HASHES)),
            places: Arc::new(Semaphore::new(MAX_QUEUED_HASHES)),
        }))
    }
}

impl PasswordVerifier {
    /// The publisher of a user name and password. Refuses with `unauthenticated`, whatever of the two is wrong and
    /// after the same time; with `rate-limited` an address that failed too often.
    pub async fn admit(
        &self,
        whitelist: &Whitelist,
        address: Option<IpAddr>,
        username: &str,
        password: Zeroizing<String>,
    ) -> Result<Arc<Publisher>, Refusal> {
        let user = whitelist.user(username);
        let hash = match user.and_then(|user| user.password()) {
            Some(hash) => hash.clone(),
            // For an unknown user the work is the same, and for nothing.
            None => whitelist.costliest_hash().cloned().ok_or(ErrorCode::Unauthenticated)?,
        };
        let digest = user.and_then(|_| self.0.digest(username, &hash, &password));
        let passed = || user.filter(|_| digest.is_some_and(|digest| self.0.has_passed(&digest))).cloned();
        if let Some(publisher) = passed() {
            return Ok(publisher);
        }
        let address = address.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        self.0.check_failures(address)?;
        let busy = || Refusal::from(ErrorCode::RateLimited).retry_after(Duration::from_secs(1));
        let place = self.0.places.clone().try_acquire_owned().map_err(|_| busy())?;
        let turn = self.0.turns.clone().acquire_owned().await.map_err(|_| Refusal::from(ErrorCode::Internal))?;
        drop(place);
        // While this one waited, another request may have shown that the password is good, or that this address guesses.
        if let Some(publisher) = passed() {
            return Ok(publisher);
        }
        self.0.check_failures(address)?;
        let (inner, is_user) = (self.0.clone(), user.is_some());
        // The turn and the account of failures end with the work, also if nobody waits for its result any more.
        let verifying = tokio::task::spawn_blocking(move || {
            let is_good = hash.verify(&password) && is_user;
            match digest {
                Some(digest) if is_good => inner.remember(digest),
                _ if !is_good => inner.count_failure(address),
                _ => {}
            }
            drop(turn);
            is_good
        });
        let is_good = verifying.await.unwrap_or(false);
        user.filter(|_| is_good).cloned().ok_or(ErrorCode::Unauthenticated.into())
    }
}

impl Inner {
    fn digest(&self, username: &str, hash: &PasswordHash, password: &str) -> Option<Digest> {
        let mut context = hmac::Context::with_key(self.secret.as_ref()?);
        for part in [username, &hash.text(), password] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        context.sign().as_ref().try_into().ok()
    }

    fn has_passed(&self, digest: &Digest) -> bool {
        let now = Instant::now();
        match self.passed.lock().get_mut(digest) {
            Some(last) if now.duration_since(*last) < CREDENTIAL_CACHE_TTL => {
                *last = now;
                true
            }
            _ => false,
        }
    }

    fn remember(&self, digest: Digest) {
        let now = Instant::now();
        let mut passed = self.passed.lock();
        if passed.len() >= MAX_CACHED_CREDENTIALS {
            passed.retain(|_, last| now.duration_since(*last) < CREDENTIAL_CACHE_TTL);
        }
        if passed.len() < MAX_CACHED_CREDENTIALS {
            passed.insert(digest, now);
        }
    }

    fn check_failures(&self, address: IpAddr) -> Result<(), Refusal> {
        let failures = self.failures.lock();
        let Some(known) = failures.get(&self.accountable(&failures, address)) else { return Ok(()) };
        let wait = known.limit.clone().try_take(Instant::now());
        wait.map_err(|wait| Refusal::from(ErrorCode::RateLimited).retry_after(wait))
    }

    fn count_failure(&self, address: IpAddr) {
        let now = Instant::now();
        let mut failures = self.failures.lock();
        if failures.len() >= MAX_FAILURE_ADDRESSES {
            let forgiven = Duration::from_secs(u64::from(FAILURE_BURST / FAILURES_PER_SECOND));
            failures.retain(|_, known| now.duration_since(known.last) < forgiven);
        }
        let address = self.accountable(&failures, address);
        let limit = || RateLimit::new(FAILURES_PER_SECOND, FAILURE_BURST);
        let known = failures.entry(address).or_insert_with(|| Failures { limit: limit(), last: now });
        known.last = now;
        // Those that were verified at the same time may go one over the limit.
        let _ = known.limit.try_take(now);
    }

    /// The address under which failures are counted: the one that all share where there are too many.
    fn accountable(&self, failures: &HashMap<IpAddr, Failures>, address: IpAddr) -> IpAddr {
        let has_room = failures.len() < MAX_FAILURE_ADDRESSES || failures.contains_key(&address);
        if has_room { address } else { Ipv6Addr::UNSPECIFIED.into() }
    }
}
