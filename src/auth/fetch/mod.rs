//! Outgoing HTTP requests to identity providers: key sets, discovery documents and token endpoints.
//!
//! The gateway sends no others. Requests go to an [`Endpoint`] only, follow no redirect, and are bounded in time and
//! size. With `egress = "none"` there is no [`Fetcher`].

mod address;
mod endpoint;
mod error;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

pub use endpoint::{Endpoint, EndpointError};
pub use error::FetchError;

/// Deadline of a fetch: name resolution, connection, handshake and response.
const FETCH_DEADLINE: Duration = Duration::from_secs(5);
/// Deadline for one address, so that an unreachable one leaves time for the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest response body, in bytes.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// Largest response head, in bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Configuration of outgoing requests.
#[derive(Clone, Debug, Default)]
pub struct FetchConfig {
    /// Hosts that may have private and loopback addresses; names or addresses, in lower case, without brackets.
    pub private_hosts: Vec<String>,
    /// Certificate authorities in addition to those of the machine.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// HTTP client for [`Endpoint`]s.
pub struct Fetcher {
    /// The configured authorities. The first TLS connection adds those of the machine.
    roots: RootCertStore,
    tls: OnceCell<TlsConnector>,
    private_hosts: Vec<String>,
}

/// A response with any status except a redirect.
pub struct Fetched {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl fmt::Debug for Fetched {
    /// The status only: the rest may contain tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Performs no I/O.
    pub fn new(config: FetchConfig) -> Result<Self, FetchError> {
        let FetchConfig { private_hosts, authorities } = config;
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(FetchError::Authorities)?;
        }
        Ok(Self { roots, tls: OnceCell::new(), private_hosts })
    }

    pub async fn get(&self, endpoint: &Endpoint) -> Result<Fetched, FetchError> {
        self.get_with(endpoint, HeaderMap::new()).await
    }

    /// With additional request headers, such as `If-None-Match`.
    pub async fn get_with(&self, endpoint: &Endpoint, headers: HeaderMap) -> Result<Fetched, FetchError> {
        self.fetch(endpoint, Method::GET, headers, Bytes::new()).await
    }

    /// `body` is `application/x-www-form-urlencoded`; `headers` are additional ones, such as `Authorization`.
    pub async fn post_form(
        &self,
        endpoint: &Endpoint,
        mut headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> Result<Fetched, FetchError> {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        self.fetch(endpoint, Method::POST, headers, body.into()).await
    }

    async fn fetch(
        &self,
        endpoint: &Endpoint,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Fetched, FetchError> {
        let request = request(endpoint, method, headers, body)?;
        let fetching = async {
            let tcp = self.connect(endpoint).await?;
            if !endpoint.is_tls() {
                return exchange(tcp, request).await;
            }
            let name = ServerName::try_from(endpoint.host().to_owned()).map_err(|_| FetchError::Name)?;
            exchange(self.tls().await?.connect(name, tcp).await.map_err(FetchError::Tls)?, request).await
        };
        timeout(FETCH_DEADLINE, fetching).await.map_err(|_| FetchError::TimedOut)?
    }

    async fn tls(&self) -> Result<&TlsConnector, FetchError> {
        self.tls
            .get_or_try_init(async || {
                let roots = self.roots.clone();
                // Loading the authorities reads many files.
                let building = tokio::task::spawn_blocking(move || connector(roots));
                building.await.map_err(|ended| FetchError::Tls(ended.into()))?
            })
            .await
    }

    /// Connects to an address that was checked. The name is resolved once, so DNS rebinding has no effect.
    async fn connect(&self, endpoint: &Endpoint) -> Result<TcpStream, FetchError> {
        let found = lookup_host((endpoint.host(), endpoint.port())).await.map_err(|_| FetchError::Name)?;
        let allowed = found.filter(|address| self.allows(endpoint, *address));
        let mut failed = FetchError::AddressRefused;
        for address in allowed {
            failed = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => FetchError::Connect(error),
                Err(_) => FetchError::TimedOut,
            };
        }
        Err(failed)
    }

    fn allows(&self, endpoint: &Endpoint, address: SocketAddr) -> bool {
        let is_private_host = self.private_hosts.iter().any(|host| host.eq_ignore_ascii_case(endpoint.host()));
        match address::kind(address.ip()) {
            address::AddressKind::Public => true,
            address::AddressKind::Private => is_private_host,
            address::AddressKind::Loopback => is_private_host || endpoint.is_own_loopback(),
            address::AddressKind::Special => false,
        }
    }
}

fn connector(mut roots: RootCertStore) -> Result<TlsConnector, FetchError> {
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        tracing::warn!("no certificate authorities on this machine; set egress_ca to reach identity providers");
    }
    let mut tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(FetchError::Authorities)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(tls)))
}

fn request(
    endpoint: &Endpoint,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, FetchError> {
    let mut request = Request::builder().method(method).uri(endpoint.path_and_query()).body(Full::new(body))?;
    *request.headers_mut() = headers;
    let own = [
        (header::HOST, HeaderValue::try_from(endpoint.authority())?),
        (header::USER_AGENT, HeaderValue::from_static(concat!("lastmile/", env!("CARGO_PKG_VERSION")))),
        (header::CONNECTION, HeaderValue::from_static("close")),
    ];
    request.headers_mut().extend(own);
    if !request.headers().contains_key(header::ACCEPT) {
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    }
    Ok(request)
}

/// Sends one request and reads its response. Refuses redirects. Closes the connection afterwards.
async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Fetched, FetchError> {
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(TokioIo::new(io)).await?;
    let answered = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        if head.status.is_redirection() && head.status != StatusCode::NOT_MODIFIED {
            return Err(FetchError::Redirected);
        }
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(FetchError::of_body)?.to_bytes();
        Ok(Fetched { status: head.status, headers: head.headers, body })
    };
    tokio::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        // Bytes received before the connection ended may not be read yet.
        _ = connection => answered.await,
    }
}
