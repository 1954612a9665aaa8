//! A gateway's address: URL, TLS trust and timeouts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::backoff::Backoff;
use crate::error::Error;

/// Covers TCP, TLS and the WebSocket upgrade together.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The address of a gateway. A URL (`&str`) converts into it.
///
/// ```
/// # fn main() -> Result<(), lastmile_client::Error> {
/// use std::time::Duration;
/// use lastmile_client::Gateway;
///
/// let gateway = Gateway::new("https://gateway.example:8081")?
///     .with_backoff(Duration::from_millis(100), Duration::from_secs(5));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Gateway {
    authority: String,
    host: String,
    port: u16,
    /// Has no slash at the end; empty for the root.
    base_path: String,
    tls: Option<Arc<ClientConfig>>,
    backoff: Backoff,
    pub(crate) pong_timeout: Duration,
    pub(crate) retry_for: Duration,
}

/// A byte stream to the gateway, with or without TLS.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Gateway {
    /// Accepts `http`, `https`, `ws` and `wss` URLs, with a path for a gateway behind a path prefix. TLS trusts the
    /// system's certificate authorities.
    pub fn new(url: &str) -> Result<Self, Error> {
        let uri: Uri = url.parse().map_err(|error| bad_url(&format!("{error}")))?;
        let is_tls = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(bad_url("missing http:// or https://")),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(|| bad_url("missing host"))?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(bad_url("a user name or query is not allowed"));
        }
        Ok(Self {
            authority: authority.as_str().to_owned(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            base_path: uri.path().trim_end_matches('/').to_owned(),
            tls: if is_tls { Some(Arc::new(tls(system_roots()?)?)) } else { None },
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
            pong_timeout: Duration::from_secs(10),
            retry_for: Duration::from_secs(30),
        })
    }

    /// Trusts only these certificate authorities (PEM).
    pub fn with_authorities(mut self, pem: &str) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| bad_tls(&error))?;
            roots.add(certificate).map_err(|error| bad_tls(&error))?;
        }
        if roots.is_empty() {
            return Err(bad_tls(&"no certificate in the PEM text"));
        }
        if self.tls.is_some() {
            self.tls = Some(Arc::new(tls(roots)?));
        }
        Ok(self)
    }

    /// Sets the first and the longest wait between attempts. Each wait is a random part of it. Default: 500 ms and 30
    /// s.
    pub fn with_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = Backoff::new(first, longest);
        self
    }

    /// Sets how long a gateway may leave a ping unanswered. Default: 10 s.
    pub fn with_pong(mut self, pong_timeout: Duration) -> Self {
        self.pong_timeout = pong_timeout;
        self
    }

    /// Sets how long a request is retried, counted from its start. Default: 30 s. The gateway remembers an idempotency
    /// key for `limits.idempotency_secs`.
    pub fn with_retries_for(mut self, retry_for: Duration) -> Self {
        self.retry_for = retry_for;
        self
    }

    pub(crate) fn backoff(&self) -> Backoff {
        self.backoff.clone()
    }

    /// Host and port as written in the URL.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Puts a protocol path below the gateway's path prefix.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.base_path)
    }

    /// Builds the WebSocket URL of a full path.
    pub(crate) fn websocket(&self, path: &str) -> Result<Uri, Error> {
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        let uri = Uri::builder().scheme(scheme).authority(self.authority.as_str()).path_and_query(path).build();
        uri.map_err(|error| bad_url(&error.to_string()))
    }

    /// Opens TCP, then TLS for `https` and `wss`.
    pub(crate) async fn dial(&self) -> Result<Box<dyn Io>, Error> {
        let dialing = async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await;
            let tcp = tcp.map_err(|error| unreachable(&io_message(&error)))?;
            // Nagle's algorithm would delay small frames.
            tcp.set_nodelay(true).map_err(|error| unreachable(&error.to_string()))?;
            let Some(tls) = &self.tls else { return Ok(Box::new(tcp) as Box<dyn Io>) };
            let name = ServerName::try_from(self.host.clone()).map_err(|error| bad_url(&error.to_string()))?;
            let stream = TlsConnector::from(tls.clone()).connect(name, tcp).await.map_err(|error| {
                let is_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
                if is_tls { bad_tls(&error) } else { unreachable(&io_message(&error)) }
            })?;
            Ok(Box::new(stream) as Box<dyn Io>)
        };
        timeout(CONNECT_TIMEOUT, dialing).await.unwrap_or_else(|_| Err(unreachable("connect timeout")))
    }
}

fn system_roots() -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    // Unreadable system certificates are skipped; `with_authorities` replaces the whole list.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(roots)
}

fn tls(roots: RootCertStore) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = versions.map_err(|error| bad_tls(&error))?.with_root_certificates(roots).with_no_client_auth();
    // The WebSocket upgrade needs HTTP/1.1, and signed requests are few and small.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Names the usual mistakes.
fn io_message(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::UnexpectedEof => "closed during the handshake; is TLS enabled on one side only?".to_owned(),
        _ => error.to_string(),
    }
}

fn bad_url(why: &str) -> Error {
    Error::new("url", format!("{why}; expected something like https://gateway.example:8081"))
}

fn bad_tls(why: &dyn std::fmt::Display) -> Error {
    Error::new("tls", why.to_string())
}

fn unreachable(why: &str) -> Error {
    Error::temporary("unreachable", format!("cannot connect: {why}"))
}

impl TryFrom<&str> for Gateway {
    type Error = Error;

    fn try_from(url: &str) -> Result<Self, Error> {
        Self::new(url)
    }
}

impl TryFrom<&String> for Gateway {
    type Error = Error;

    fn try_from(url: &String) -> Result<Self, Error> {
        Self::new(url)
    }
}

impl std::fmt::Display for Gateway {
    /// The URL, with `http` or `https`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.base_path)
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gateway({}{})", self.authority, self.base_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_and_websocket_urls_are_equal() {
        for (url, expected) in [
            ("http://127.0.0.1:8081", "ws://127.0.0.1:8081/v1/publish"),
            ("ws://[::1]:8081/", "ws://[::1]:8081/v1/publish"),
            ("https://gw.example/live/", "wss://gw.example/live/v1/publish"),
        ] {
            let gateway = Gateway::new(url).unwrap();
            assert_eq!(gateway.websocket(&gateway.path("/v1/publish")).unwrap().to_string(), expected);
        }
        for bad in ["", "gw.example", "127.0.0.1:8081", "ftp://gw.example", "http://", "http://u:p@gw", "http://gw?a=b"]
        {
            assert_eq!(Gateway::new(bad).unwrap_err().code, "url", "{bad}");
        }
    }
}
