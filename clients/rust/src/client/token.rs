//! Where the tokens of a listener come from.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::error::Error;

type TokenFuture = Pin<Box<dyn Future<Output = Result<String, Error>> + Send>>;

/// A token (JWT), or what gets a fresh one.
#[derive(Clone)]
pub struct TokenSource(Source);

#[derive(Clone)]
enum Source {
    Anonymous,
    Fixed(String),
    Function(Arc<dyn Fn() -> TokenFuture + Send + Sync>),
}

impl TokenSource {
    /// No token: for channels that are for anyone.
    pub fn anonymous() -> Self {
        Self(Source::Anonymous)
    }

    /// One token, until it runs out.
    pub fn fixed(token: impl Into<String>) -> Self {
        Self(Source::Fixed(token.into()))
    }

    /// Asked before each connection and before a token runs out. After an error that is not temporary the client stops
    /// instead of asking again.
    pub fn function<F, A>(get: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<String, Error>> + Send + 'static,
    {
        Self(Source::Function(Arc::new(move || Box::pin(get()))))
    }

    pub(super) async fn get(&self) -> Result<Option<String>, Error> {
        match &self.0 {
            Source::Anonymous => Ok(None),
            Source::Fixed(token) => Ok(Some(token.clone())),
            Source::Function(get) => get().await.map(Some),
        }
    }

    /// Whether there may be a newer one.
    pub(super) fn is_renewable(&self) -> bool {
        matches!(self.0, Source::Function(_))
    }
}

impl fmt::Debug for TokenSource {
    /// Never a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::Anonymous => "TokenSource(anonymous)",
            Source::Fixed(_) => "TokenSource(fixed)",
            Source::Function(_) => "TokenSource(function)",
        })
    }
}
