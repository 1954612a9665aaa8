//! The task that keeps one issuer's keys fresh: it fetches before they run out, when a token names an unknown key,
//! and again and again, ever more seldom, while the provider is away. What it gets in vain changes nothing.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::metrics::{Counter, counter};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::discovery::{ProviderError, ProviderMetadata};
use super::document::read_key_set;
use super::{JwksCache, Remote, freshness};
use crate::auth::fetch::{Endpoint, FetchError, Fetched, Fetcher};
use crate::auth::token::issuer_error::IssuerProblem;
use crate::broker::Now;

/// Longest wait before the next try.
const MAX_BACKOFF_SECS: u64 = 60;

/// Every value of the label `result`.
const RESULTS: [&str; 13] = [
    "ok",
    "unchanged",
    "status",
    "document",
    "keys",
    "name",
    "address",
    "connect",
    "tls",
    "http",
    "redirect",
    "too_large",
    "timeout",
];

/// Ends with the last issuer that uses it.
pub struct Background(tokio::task::JoinHandle<()>);

impl Background {
    /// Begins to fetch, at once. Needs a tokio runtime; counts where the recorder is current.
    pub fn start(ring: Arc<JwksCache>, remote: Remote, fetcher: Arc<Fetcher>) -> Self {
        let counters = RESULTS.map(|result| (result, counter!("lastmile_key_fetches_total", "result" => result)));
        ring.demand.serve();
        Self(tokio::spawn(Refresher { ring, remote, fetcher, counters, etag: None, provider_fresh: None }.run()))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Refresher {
    ring: Arc<JwksCache>,
    remote: Remote,
    fetcher: Arc<Fetcher>,
    counters: [(&'static str, Counter); RESULTS.len()],
    etag: Option<HeaderValue>,
    /// Until when the discovery document need not be asked for.
    provider_fresh: Option<Instant>,
}

impl Refresher {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            self.ring.demand.begin();
            let wait = match self.renew().await {
                Ok(fresh) => {
                    failures = 0;
                    // Before they run out, so that nobody meets keys that are not fresh.
                    match self.ring.max_age_secs {
                        0 => fresh.mul_f32(0.9),
                        max_age => fresh.min(Duration::from_secs(max_age / 2)).mul_f32(0.9),
                    }
                }
                Err(error) => {
                    self.count(error.word());
                    let wait = backoff(failures);
                    failures += 1;
                    let has_keys = self.ring.latest().is_some();
                    tracing::warn!(
                        issuer = %self.ring.issuer, %error, has_keys, retry_secs = wait.as_secs(),
                        "the issuer's keys could not be fetched; those before them stay"
                    );
                    wait
                }
            };
            self.ring.demand.end();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.ring.demand.asked() => {}
            }
        }
    }

    /// Gives how long the keys stay fresh.
    async fn renew(&mut self) -> Result<Duration, RefreshError> {
        let endpoint = self.key_set_endpoint().await?;
        let known = self.etag.take().filter(|_| self.ring.latest().is_some());
        let headers = HeaderMap::from_iter(known.clone().map(|etag| (header::IF_NONE_MATCH, etag)));
        let fetched = self.fetcher.get_with(&endpoint, headers).await?;
        let fresh = freshness::of(&fetched.headers);
        if fetched.status == StatusCode::NOT_MODIFIED && known.is_some() {
            self.etag = known;
            self.ring.confirm(Now::read().unix());
            self.count("unchanged");
            return Ok(fresh);
        }
        let Fetched { headers, body, .. } = success(fetched)?;
        let keys = read_key_set(&body).map_err(RefreshError::KeySet)?;
        self.ring.put(keys, Now::read().unix())?;
        self.etag = headers.get(header::ETAG).cloned();
        self.count("ok");
        tracing::info!(issuer = %self.ring.issuer, fresh_secs = fresh.as_secs(), "the issuer's keys are fetched");
        Ok(fresh)
    }

    /// Where the keys are. A discovery document that was good once does until a newer one is.
    async fn key_set_endpoint(&mut self) -> Result<Endpoint, RefreshError> {
        let at = match &self.remote {
            Remote::KeySet(endpoint) => return Ok(endpoint.clone()),
            Remote::Discovery(endpoint) => endpoint.clone(),
        };
        let known = self.ring.provider.load_full();
        match known {
            Some(known) if self.provider_fresh.is_some_and(|fresh| Instant::now() < fresh) => Ok(known.jwks.clone()),
            Some(known) => match self.discover(&at).await {
                Ok(provider) => Ok(provider.jwks.clone()),
                Err(error) => {
                    self.count(error.word());
                    tracing::warn!(issuer = %self.ring.issuer, %error, "the discovery document before it stays");
                    Ok(known.jwks.clone())
                }
            },
            None => Ok(self.discover(&at).await?.jwks.clone()),
        }
    }

    async fn discover(&mut self, at: &Endpoint) -> Result<Arc<ProviderMetadata>, RefreshError> {
        let Fetched { headers, body, .. } = success(self.fetcher.get(at).await?)?;
        let provider = Arc::new(ProviderMetadata::read(&body, &self.ring.issuer, at)?);
        self.provider_fresh = Some(Instant::now() + freshness::of(&headers));
        self.ring.provider.store(Some(provider.clone()));
        Ok(provider)
    }

    fn count(&self, result: &str) {
        if let Some((_, counter)) = self.counters.iter().find(|(known, _)| *known == result) {
            counter.increment(1);
        }
    }
}

fn success(fetched: Fetched) -> Result<Fetched, RefreshError> {
    if fetched.status == StatusCode::OK { Ok(fetched) } else { Err(RefreshError::Status(fetched.status)) }
}

/// One second, doubled with every failure, up to a minute.
fn backoff(failures: u32) -> Duration {
    Duration::from_secs(1_u64.checked_shl(failures.min(16)).unwrap_or(MAX_BACKOFF_SECS).min(MAX_BACKOFF_SECS))
}

/// Why nothing new came.
#[derive(Debug)]
enum RefreshError {
    Fetch(FetchError),
    Status(StatusCode),
    Provider(ProviderError),
    KeySet(String),
    Keys(IssuerProblem),
}

impl RefreshError {
    fn word(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.word(),
            Self::Status(_) => "status",
            Self::Provider(_) => "document",
            Self::KeySet(_) | Self::Keys(_) => "keys",
        }
    }
}

impl From<FetchError> for RefreshError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

impl From<ProviderError> for RefreshError {
    fn from(error: ProviderError) -> Self {
        Self::Provider(error)
    }
}

impl From<IssuerProblem> for RefreshError {
    fn from(error: IssuerProblem) -> Self {
        Self::Keys(error)
    }
}

impl fmt::Display for RefreshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetch(error) => error.fmt(f),
            Self::Status(status) => write!(f, "the answer has the status {status}"),
            Self::Provider(error) => error.fmt(f),
            Self::KeySet(reason) => write!(f, "not a JWK Set with public keys: {reason}"),
            Self::Keys(problem) => problem.fmt(f),
        }
    }
}
