//! Sources of subscriber tokens.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::error::Error;

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

    /// A function that is called before each connection and before a token expires. An error that is not temporary ends
    /// the client. An empty string is no token.
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
            Source::Function(get) => Ok(Some(get().await?).filter(|token| !token.is_empty())),
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
