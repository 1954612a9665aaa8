//! Sources of subscriber tokens.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::error::Error;

/// A function that does not answer is called again after this time.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(15);

type TokenFuture = Pin<Box<dyn Future<Output = Result<String, Error>> + Send>>;

/// A token (JWT), or a function that returns a fresh one.
#[derive(Clone)]
pub struct TokenSource(Source);

#[derive(Clone)]
enum Source {
    Anonymous,
    Fixed(String),
    Function(Arc<dyn Fn() -> TokenFuture + Send + Sync>),
}

impl TokenSource {
    /// No token, for channels with `subscribers = "anyone"`.
    pub fn anonymous() -> Self {
        Self(Source::Anonymous)
    }

    /// One token until it expires.
    pub fn fixed(token: impl Into<String>) -> Self {
        Self(Source::Fixed(token.into()))
    }

    /// A function that returns a new token. The client keeps it until it nears its end or is refused. An error that is
    /// not temporary ends the client, and so do three refused tokens in a row. An empty string is no token.
    pub fn function<F, A>(get: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<String, Error>> + Send + 'static,
    {
        Self(Source::Function(Arc::new(move || Box::pin(get()))))
    }

    pub(crate) async fn get(&self) -> Result<Option<String>, Error> {
        match &self.0 {
            Source::Anonymous => Ok(None),
            Source::Fixed(token) => Ok(Some(token.clone())),
            Source::Function(get) => {
                let token = timeout(TOKEN_TIMEOUT, get()).await;
                let token = token.map_err(|_| Error::temporary("token", "the token function did not answer"))??;
                Ok(Some(token).filter(|token| !token.is_empty()))
            }
        }
    }

    /// Whether another call can return a newer token.
    pub(crate) fn is_renewable(&self) -> bool {
        matches!(self.0, Source::Function(_))
    }
}

impl fmt::Debug for TokenSource {
    /// Never shows a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::Anonymous => "TokenSource(anonymous)",
            Source::Fixed(_) => "TokenSource(fixed)",
            Source::Function(_) => "TokenSource(function)",
        })
    }
}
