//! Password authentication of publishers, with bounded concurrency, failure limits by address, and a cache.
//!
//! The cache replaces a hash of many megabytes by an HMAC for credentials that were verified before.

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

/// Concurrent verifications. Each occupies a core and its memory.
const MAX_CONCURRENT_HASHES: usize = 2;

/// Requests waiting for a verification.
const MAX_QUEUED_HASHES: usize = 1024;

/// Rate and burst of failures of one client address.
const FAILURES_PER_SECOND: u32 = 1;
const FAILURE_BURST: u32 = 20;

/// Addresses with a failure limit of their own. Further addresses share one.
const MAX_FAILURE_ADDRESSES: usize = 10_000;

/// Time after its last use for which a verified credential is accepted without a verification.
const CREDENTIAL_CACHE_TTL: Duration = Duration::from_secs(300);

/// Most cached credentials. Only verified ones are cached, so there are few.
const MAX_CACHED_CREDENTIALS: usize = 10_000;

/// Verifies user names and passwords. Verifications in progress share its state.
pub struct PasswordVerifier(Arc<VerifierState>);

struct VerifierState {
    /// Key of the cache, random for each process. `None` without randomness: then nothing is cached.
    secret: Option<hmac::Key>,
    verified: Mutex<HashMap<Digest, Instant>>,
    failures: Mutex<HashMap<IpAddr, Failures>>,
    permits: Arc<Semaphore>,
    queue: Arc<Semaphore>,
}

/// HMAC of user name, password and password hash. A changed hash invalidates cached credentials.
type Digest = [u8; 32];

struct Failures {
    limit: RateLimit,
    last: Instant,
}

impl Default for PasswordVerifier {
    fn default() -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        let secret = getrandom::fill(&mut *secret).ok().map(|()| hmac::Key::new(hmac::HMAC_SHA256, &*secret));
        Self(Arc::new(VerifierState {
            secret,
            verified: Mutex::default(),
            failures: Mutex::default(),
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_HASHES)),
            queue: Arc::new(Semaphore::new(MAX_QUEUED_HASHES)),
        }))
    }
}

impl PasswordVerifier {
    /// The publisher with this user name and password. Refuses with `unauthenticated` after the same time whether the
    /// user or the password is wrong, and with `rate-limited` after too many failures of an address.
    pub async fn verify(
        &self,
        whitelist: &Whitelist,
        address: Option<IpAddr>,
        username: &str,
        password: Zeroizing<String>,
    ) -> Result<Arc<Publisher>, Refusal> {
        let user = whitelist.user(username);
        let hash = match user.and_then(|user| user.password()) {
            Some(hash) => hash.clone(),
            // An unknown user costs the same work, so that timing does not reveal user names.
            None => whitelist.costliest_hash().cloned().ok_or(ErrorCode::Unauthenticated)?,
        };
        let digest = user.and_then(|_| self.0.digest(username, &hash, &password));
        let cached = || user.filter(|_| digest.is_some_and(|digest| self.0.is_cached(&digest))).cloned();
        if let Some(publisher) = cached() {
            return Ok(publisher);
        }
        let address = address.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        self.0.check_failures(address)?;
        let busy = || Refusal::from(ErrorCode::RateLimited).retry_after(Duration::from_secs(1));
        let queued = self.0.queue.clone().try_acquire_owned().map_err(|_| busy())?;
        let permit = self.0.permits.clone().acquire_owned().await.map_err(|_| Refusal::from(ErrorCode::Internal))?;
        drop(queued);
        // While this request waited, another one may have verified the password or reached the failure limit.
        if let Some(publisher) = cached() {
            return Ok(publisher);
        }
        self.0.check_failures(address)?;
        let (inner, is_user) = (self.0.clone(), user.is_some());
        // The permit and the failure count belong to the task: they hold even if the request is cancelled.
        let verifying = tokio::task::spawn_blocking(move || {
            let is_valid = hash.verify(&password) && is_user;
            match digest {
                Some(digest) if is_valid => inner.cache(digest),
                _ if !is_valid => inner.count_failure(address),
                _ => {}
            }
            drop(permit);
            is_valid
        });
        let is_valid = verifying.await.unwrap_or(false);
        user.filter(|_| is_valid).cloned().ok_or(ErrorCode::Unauthenticated.into())
    }
}

impl VerifierState {
    fn digest(&self, username: &str, hash: &PasswordHash, password: &str) -> Option<Digest> {
        let mut context = hmac::Context::with_key(self.secret.as_ref()?);
        for part in [username, &hash.text(), password] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        context.sign().as_ref().try_into().ok()
    }

    fn is_cached(&self, digest: &Digest) -> bool {
        let now = Instant::now();
        match self.verified.lock().get_mut(digest) {
            Some(last) if now.duration_since(*last) < CREDENTIAL_CACHE_TTL => {
                *last = now;
                true
            }
            _ => false,
        }
    }

    fn cache(&self, digest: Digest) {
        let now = Instant::now();
        let mut verified = self.verified.lock();
        if verified.len() >= MAX_CACHED_CREDENTIALS {
            verified.retain(|_, last| now.duration_since(*last) < CREDENTIAL_CACHE_TTL);
        }
        if verified.len() < MAX_CACHED_CREDENTIALS {
            verified.insert(digest, now);
        }
    }

    fn check_failures(&self, address: IpAddr) -> Result<(), Refusal> {
        let failures = self.failures.lock();
        let Some(known) = failures.get(&self.failure_key(&failures, address)) else { return Ok(()) };
        let wait = known.limit.clone().try_take(Instant::now());
        wait.map_err(|wait| Refusal::from(ErrorCode::RateLimited).retry_after(wait))
    }

    fn count_failure(&self, address: IpAddr) {
        let now = Instant::now();
        let mut failures = self.failures.lock();
        if failures.len() >= MAX_FAILURE_ADDRESSES {
            let retention = Duration::from_secs(u64::from(FAILURE_BURST / FAILURES_PER_SECOND));
            failures.retain(|_, known| now.duration_since(known.last) < retention);
        }
        let address = self.failure_key(&failures, address);
        let limit = || RateLimit::new(FAILURES_PER_SECOND, FAILURE_BURST);
        let known = failures.entry(address).or_insert_with(|| Failures { limit: limit(), last: now });
        known.last = now;
        // Concurrent verifications may exceed the limit by one.
        let _ = known.limit.try_take(now);
    }

    /// The address under which failures are counted: the shared one if the table is full.
    fn failure_key(&self, failures: &HashMap<IpAddr, Failures>, address: IpAddr) -> IpAddr {
        let has_entry = failures.len() < MAX_FAILURE_ADDRESSES || failures.contains_key(&address);
        if has_entry { address } else { Ipv6Addr::UNSPECIFIED.into() }
    }
}
