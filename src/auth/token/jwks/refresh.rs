//! Task that refreshes one issuer's keys, with backoff while the provider fails.
//!
//! It fetches before the keys lose freshness, and when a token names an unknown key. A failure keeps the previous keys.

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
use crate::ops::Lifecycle;

/// Longest wait before a retry.
const MAX_BACKOFF_SECS: u64 = 60;

/// All values of the metric label `result`.
const RESULT_LABELS: [&str; 13] = [
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

/// A running refresh task, which ends when this is dropped.
pub struct Background(tokio::task::JoinHandle<()>);

impl Background {
    /// Starts fetching at once. Needs a tokio runtime. Counts with the current recorder.
    pub fn start(jwks: Arc<JwksCache>, remote: Remote, fetcher: Arc<Fetcher>, lifecycle: &Arc<Lifecycle>) -> Self {
        let counters = RESULT_LABELS.map(|result| (result, counter!("lastmile_key_fetches_total", "result" => result)));
        jwks.fetch_gate.serve();
        let refresher = Refresher { jwks, remote, fetcher, counters, etag: None, provider_fresh: None };
        Self(tokio::spawn(lifecycle.clone().supervise("key refresh", refresher.run())))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Refresher {
    jwks: Arc<JwksCache>,
    remote: Remote,
    fetcher: Arc<Fetcher>,
    counters: [(&'static str, Counter); RESULT_LABELS.len()],
    etag: Option<HeaderValue>,
    /// End of the discovery document's freshness.
    provider_fresh: Option<Instant>,
}

impl Refresher {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            self.jwks.fetch_gate.begin();
            let refreshed = self.refresh().await;
            let is_success = refreshed.is_ok();
            let wait = match refreshed {
                Ok(fresh) => {
                    failures = 0;
                    // Refresh before the keys lose freshness, so that no token meets stale keys.
                    match self.jwks.max_age_secs {
                        0 => fresh.mul_f32(0.9),
                        max_age => fresh.min(Duration::from_secs(max_age / 2)).mul_f32(0.9),
                    }
                }
                Err(error) => {
                    self.count(error.label());
                    let wait = backoff(failures);
                    failures += 1;
                    let has_keys = self.jwks.latest().is_some();
                    tracing::warn!(
                        issuer = %self.jwks.issuer, %error, has_keys, retry_secs = wait.as_secs(),
                        "cannot fetch issuer keys, keeping the previous ones"
                    );
                    wait
                }
            };
            self.jwks.fetch_gate.end(is_success);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.jwks.fetch_gate.requested() => {}
            }
        }
    }

    /// Fetches the keys. Returns their freshness.
    async fn refresh(&mut self) -> Result<Duration, RefreshError> {
        let endpoint = self.key_set_endpoint().await?;
        let known = self.etag.take().filter(|_| self.jwks.latest().is_some());
        let headers = HeaderMap::from_iter(known.clone().map(|etag| (header::IF_NONE_MATCH, etag)));
        let fetched = self.fetcher.get_with(&endpoint, headers).await?;
        let fresh = freshness::of(&fetched.headers);
        if fetched.status == StatusCode::NOT_MODIFIED && known.is_some() {
            self.etag = known;
            self.jwks.confirm(Now::read().unix());
            self.count("unchanged");
            return Ok(fresh);
        }
        let Fetched { headers, body, .. } = success(fetched)?;
        let keys = read_key_set(&body).map_err(RefreshError::KeySet)?;
        self.jwks.put(keys, Now::read().unix())?;
        self.etag = headers.get(header::ETAG).cloned();
        self.count("ok");
        tracing::info!(issuer = %self.jwks.issuer, fresh_secs = fresh.as_secs(), "issuer keys fetched");
        Ok(fresh)
    }

    /// URL of the keys. If the discovery document cannot be refreshed, the previous one is used.
    async fn key_set_endpoint(&mut self) -> Result<Endpoint, RefreshError> {
        let at = match &self.remote {
            Remote::KeySet(endpoint) => return Ok(endpoint.clone()),
            Remote::Discovery(endpoint) => endpoint.clone(),
        };
        let known = self.jwks.provider.load_full();
        match known {
            Some(known) if self.provider_fresh.is_some_and(|fresh| Instant::now() < fresh) => Ok(known.jwks.clone()),
            Some(known) => match self.discover(&at).await {
                Ok(provider) => Ok(provider.jwks.clone()),
                Err(error) => {
                    self.count(error.label());
                    tracing::warn!(
                        issuer = %self.jwks.issuer, %error,
                        "cannot fetch discovery document, keeping the previous one"
                    );
                    Ok(known.jwks.clone())
                }
            },
            None => Ok(self.discover(&at).await?.jwks.clone()),
        }
    }

    async fn discover(&mut self, at: &Endpoint) -> Result<Arc<ProviderMetadata>, RefreshError> {
        let Fetched { headers, body, .. } = success(self.fetcher.get(at).await?)?;
        let provider = Arc::new(ProviderMetadata::read(&body, &self.jwks.issuer, at)?);
        self.provider_fresh = Some(Instant::now() + freshness::of(&headers));
        self.jwks.provider.store(Some(provider.clone()));
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

/// Why a refresh failed.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("response status {0}")]
    Status(StatusCode),
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error("not a JWK Set with public keys: {0}")]
    KeySet(String),
    #[error(transparent)]
    Keys(#[from] IssuerProblem),
}

impl RefreshError {
    fn label(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.label(),
            Self::Status(_) => "status",
            Self::Provider(_) => "document",
            Self::KeySet(_) | Self::Keys(_) => "keys",
        }
    }
}
