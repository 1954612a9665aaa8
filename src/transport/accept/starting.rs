//! Answers to probes on the operators' listeners while the gateway is still being built.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::listener::{Listener, Stream};
use crate::transport::config::Role;
use crate::transport::endpoints::HEALTHZ;

/// Probes that one listener answers at once. Further connections wait.
const MAX_PROBES: usize = 64;

/// A probe that takes longer is closed: its supervisor asks again.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers on the listeners with the role `ops` until the result is dropped: the process is alive, and not ready. Other
/// listeners do not accept yet, so their clients wait.
pub fn answer_probes(listeners: &[Listener]) -> JoinSet<()> {
    let mut accepting = JoinSet::new();
    for listener in listeners.iter().filter(|listener| listener.config().roles.contains(&Role::Ops)) {
        let (socket, tls) = (listener.socket.clone(), listener.certificate());
        accepting.spawn(async move {
            let mut probes = JoinSet::new();
            while let Ok((stream, _)) = socket.accept().await {
                let acceptor = tls.as_ref().map(|certificate| certificate.acceptor());
                probes.spawn(timeout(PROBE_TIMEOUT, async move {
                    match (stream, acceptor) {
                        (Stream::Tcp(tcp), None) => answer(tcp).await,
                        (Stream::Unix(unix), _) => answer(unix).await,
                        (Stream::Tcp(tcp), Some(acceptor)) => {
                            if let Ok(tls) = acceptor.accept(tcp).await {
                                answer(tls).await;
                            }
                        }
                    }
                }));
                while probes.try_join_next().is_some() {}
                if probes.len() >= MAX_PROBES {
                    probes.join_next().await;
                }
            }
        });
    }
    accepting
}

/// Answers one request. An error concerns its client alone.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let respond = |request: Request<Incoming>| async move { Ok::<_, Infallible>(response(request.uri().path())) };
    let _ = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service_fn(respond)).await;
}

fn response(path: &str) -> Response<Full<Bytes>> {
    if HEALTHZ.matches(path) {
        return Response::new("ok\n".into());
    }
    let mut response = Response::new("starting\n".into());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
