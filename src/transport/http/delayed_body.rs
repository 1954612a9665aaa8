//! A response whose body is known later. Its request is let go meanwhile, so that a waiting client costs no request head.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use warp::reply::Response;

/// The body to wait for; an extension of the response.
#[derive(Clone)]
pub struct DelayedBody(Arc<Mutex<Option<BoxFuture<'static, String>>>>);

impl DelayedBody {
    pub fn new(body: impl Future<Output = String> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::pin(body)))))
    }

    /// Waits for the body of a response that has a delayed one.
    pub async fn complete(response: &mut Response) {
        let Some(Self(body)) = response.extensions_mut().remove() else { return };
        let body = body.lock().take();
        if let Some(body) = body {
            *response.body_mut() = body.await.into();
        }
    }
}
