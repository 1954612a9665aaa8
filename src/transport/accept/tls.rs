//! TLS certificates: loaded, checked, and replaced without ending connections.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use tokio_rustls::TlsAcceptor;

use crate::transport::config::TlsFiles;

/// The ALPN id of HTTP/2 (RFC 7301).
pub const ALPN_HTTP2: &[u8] = b"h2";

/// One listener's certificate. New handshakes use the newest; open connections keep theirs.
pub struct Certificate {
    files: TlsFiles,
    /// Offered ALPN protocols (RFC 7301), preferred first.
    protocols: &'static [&'static [u8]],
    current: ArcSwap<Identity>,
}

/// A certificate with its key, ready for handshakes.
pub struct Identity {
    server: Arc<ServerConfig>,
    leaf: CertificateDer<'static>,
}

/// An unusable certificate or key, with its file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

impl Certificate {
    pub fn load(files: TlsFiles, http2: bool) -> Result<Arc<Self>, TlsError> {
        let protocols: &'static [&'static [u8]] = if http2 { &[ALPN_HTTP2, b"http/1.1"] } else { &[b"http/1.1"] };
        let current = ArcSwap::new(read(&files, protocols)?);
        Ok(Arc::new(Self { files, protocols, current }))
    }

    /// Reads the files again, without using them yet.
    pub fn read_again(&self) -> Result<Arc<Identity>, TlsError> {
        read(&self.files, self.protocols)
    }

    /// Uses `identity` for new handshakes. TLS sessions of the old certificate cannot be resumed.
    pub fn replace(&self, identity: Arc<Identity>) {
        self.current.store(identity);
    }

    /// Whether the certificate has this name.
    pub fn is_valid_for(&self, host: &str) -> bool {
        let identity = self.current.load();
        let (certificate, name) = (ParsedCertificate::try_from(&identity.leaf), ServerName::try_from(host));
        matches!((certificate, name), (Ok(certificate), Ok(name)) if verify_server_name(&certificate, &name).is_ok())
    }

    /// The acceptor of one handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load().server.clone())
    }
}

fn read(files: &TlsFiles, protocols: &[&[u8]]) -> Result<Arc<Identity>, TlsError> {
    let TlsFiles { certificate, key } = files;
    let certificates = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| TlsError(format!("{}: {error}", certificate.display())))?;
    let Some(leaf) = certificates.first().cloned() else {
        return Err(TlsError(format!("{}: contains no certificate", certificate.display())));
    };
    let unusable = |error: &dyn fmt::Display| TlsError(format!("{}: {error}", key.display()));
    let private_key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(&error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .with_no_client_auth()
        .with_single_cert(certificates, private_key);
    let mut config = config.map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => unusable(&"the key does not belong to the certificate"),
        other => unusable(&other),
    })?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(Identity { server: Arc::new(config), leaf }))
}
