//! The application's token, kept until it nears its end or the gateway refuses it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::token::TokenSource;

/// Refusals of new tokens in a row before the client gives up: a token service may answer nonsense for a moment.
const MAX_REFUSALS: u32 = 3;

/// The longest time before its end in which a token is not used for a new connection.
const MAX_MARGIN: Duration = Duration::from_secs(60);

pub(super) struct Tokens {
    pub source: TokenSource,
    cached: Option<Cached>,
    /// Whether the connection's token came from the cache.
    was_cached: bool,
    refusals: u32,
}

struct Cached {
    token: String,
    /// No longer used for a new connection. `None` for a token without a readable end.
    stale_at: Option<SystemTime>,
}

/// When to try another token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextToken {
    Now,
    AfterBackoff,
    Never,
}

impl Tokens {
    pub(super) fn new(source: TokenSource) -> Self {
        Self { source, cached: None, was_cached: false, refusals: 0 }
    }

    /// The token for a new connection, without a call of the application.
    pub(super) fn cached(&mut self, now: SystemTime) -> Option<String> {
        let usable = self.cached.as_ref().filter(|cached| cached.stale_at.is_none_or(|at| now < at));
        self.was_cached = usable.is_some();
        usable.map(|cached| cached.token.clone())
    }

    /// Keeps a token that the application returned.
    pub(super) fn store(&mut self, token: String, now: SystemTime) {
        if self.source.is_renewable() {
            self.cached = Some(Cached { stale_at: stale_at(&token, now), token });
        }
    }

    pub(super) fn on_accepted(&mut self) {
        self.refusals = 0;
    }

    pub(super) fn on_refused(&mut self) -> NextToken {
        if !self.source.is_renewable() {
            return NextToken::Never;
        }
        self.drop_cached();
        if self.was_cached {
            return NextToken::Now;
        }
        self.refusals += 1;
        if self.refusals < MAX_REFUSALS { NextToken::AfterBackoff } else { NextToken::Never }
    }

    pub(super) fn drop_cached(&mut self) {
        self.cached = None;
    }
}

/// `exp` of a JWT, unverified: the gateway verifies it.
#[derive(Deserialize)]
struct Claims {
    exp: f64,
}

/// The last tenth of a token's time, at most its last minute.
fn stale_at(token: &str, now: SystemTime) -> Option<SystemTime> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let Claims { exp } = serde_json::from_slice(&payload).ok()?;
    let end = UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(exp).ok()?)?;
    let left = end.duration_since(now).unwrap_or_default();
    end.checked_sub((left / 10).min(MAX_MARGIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(exp: u64) -> String {
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{exp}}}"#)))
    }

    #[test]
    fn token_is_kept_until_it_nears_its_end() {
        let start = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut tokens = Tokens::new(TokenSource::function(async || Ok(String::new())));
        assert_eq!(tokens.cached(start), None);
        tokens.store(token(1_000_100), start);
        assert!(tokens.cached(start + Duration::from_secs(89)).is_some());
        assert_eq!(tokens.cached(start + Duration::from_secs(91)), None);
        tokens.store(token(1_036_000), start);
        assert!(tokens.cached(start + Duration::from_secs(35_900)).is_some());
        // A computer that slept for a day.
        assert_eq!(tokens.cached(start + Duration::from_secs(86_400)), None);
        tokens.store("opaque".to_owned(), start);
        assert!(tokens.cached(start + Duration::from_secs(86_400)).is_some());
    }

    #[test]
    fn three_new_tokens_may_be_refused() {
        let now = UNIX_EPOCH;
        let mut tokens = Tokens::new(TokenSource::function(async || Ok(String::new())));
        tokens.store("opaque".to_owned(), now);
        assert!(tokens.cached(now).is_some());
        assert_eq!(tokens.on_refused(), NextToken::Now);
        assert_eq!(tokens.cached(now), None);
        assert_eq!(tokens.on_refused(), NextToken::AfterBackoff);
        assert_eq!(tokens.on_refused(), NextToken::AfterBackoff);
        assert_eq!(tokens.on_refused(), NextToken::Never);
        tokens.on_accepted();
        assert_eq!(tokens.on_refused(), NextToken::AfterBackoff);
        assert_eq!(Tokens::new(TokenSource::fixed("t")).on_refused(), NextToken::Never);
    }
}
