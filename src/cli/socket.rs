//! The client's WebSocket to a gateway: connecting, and why it did not work or is over.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, Utf8Bytes};

use super::Failure;
use super::gateway_url::GatewayUrl;

/// What both sides speak.
const SUBPROTOCOL: &str = "lastmile.v1";

/// For the connection, TLS and the upgrade together.
const CONNECT: Duration = Duration::from_secs(15);

/// How long a Close may take to be answered.
const CLOSE: Duration = Duration::from_secs(2);

/// The first code that tells a client not to come back.
const FIRST_FINAL_CODE: u16 = 4500;

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Connects to one gateway, again and again if need be.
#[derive(Clone)]
pub struct Client {
    url: GatewayUrl,
    /// `None` trusts what the system trusts.
    tls: Option<Connector>,
}

/// An open connection.
pub struct Socket(Stream);

impl Client {
    /// `ca` is a PEM file with the only authorities to trust.
    pub fn new(url: GatewayUrl, ca: Option<&Path>) -> Result<Self, Failure> {
        // The library asks the process for its cryptography. Somebody may have said the same before.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let tls = ca.map(|ca| trust(ca).map_err(|error| Failure::usage(format!("{}: {error}", ca.display()))));
        Ok(Self { url, tls: tls.transpose()? })
    }

    /// The URL that [`Client::connect`] opens for `path`.
    pub fn uri(&self, path: &str) -> Result<Uri, ConnectError> {
        self.url.websocket(path).map_err(|error| ConnectError::Unreachable(error.to_string()))
    }

    pub async fn connect(
        &self,
        uri: Uri,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) -> Result<Socket, ConnectError> {
        let mut request = uri.into_client_request().map_err(ConnectError::from)?;
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        request.headers_mut().extend(headers);
        let connecting = connect_async_tls_with_config(request, None, true, self.tls.clone());
        match timeout(CONNECT, connecting).await {
            Ok(Ok((stream, _))) => Ok(Socket(stream)),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(ConnectError::Unreachable(format!("no answer within {} s", CONNECT.as_secs()))),
        }
    }
}

fn trust(ca: &Path) -> Result<Connector, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("no certificate in it".to_owned());
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(Connector::Rustls(Arc::new(config)))
}

impl Socket {
    /// Hands a text over without waiting for it to leave, see [`Socket::flush`].
    pub async fn feed(&mut self, text: String) -> Result<(), Closed> {
        match self.0.feed(Message::text(text)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.reason().await),
        }
    }

    pub async fn flush(&mut self) -> Result<(), Closed> {
        match self.0.flush().await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.reason().await),
        }
    }

    pub async fn send(&mut self, text: String) -> Result<(), Closed> {
        self.feed(text).await?;
        self.flush().await
    }

    /// The next text. Pings are answered on the way and count as signs of life; `silence` without any is the end.
    pub async fn next(&mut self, silence: Duration) -> Result<Utf8Bytes, Closed> {
        loop {
            match timeout(silence, self.0.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => return Ok(text),
                Ok(Some(Ok(Message::Close(frame)))) => {
                    let frame = frame.map(|frame| (u16::from(frame.code), frame.reason.to_string()));
                    let (code, reason) = frame.unzip();
                    return Err(Closed { code, reason: reason.unwrap_or_default() });
                }
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(Closed::lost(error.to_string())),
                Ok(None) => return Err(Closed::lost("the connection broke".to_owned())),
                Err(_) => return Err(Closed::lost(format!("nothing came for {} s", silence.as_secs()))),
            }
        }
    }

    /// Says goodbye, and waits a little for the answer.
    pub async fn close(mut self) {
        let goodbye = async {
            self.0.close(None).await?;
            while self.0.next().await.is_some_and(|frame| frame.is_ok()) {}
            Ok::<_, tungstenite::Error>(())
        };
        // The other side's last word changes nothing any more.
        let _ = timeout(CLOSE, goodbye).await;
    }

    /// Why nothing can be sent: what the gateway said at the end, if it is still to be read.
    async fn reason(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.next(CLOSE).await {
                return closed;
            }
        }
    }
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed {
    /// `None` if it broke without a Close.
    pub code: Option<u16>,
    pub reason: String,
}

impl Closed {
    fn lost(reason: String) -> Self {
        Self { code: None, reason }
    }

    /// Whether to stay away: the gateway says so, or does not understand this client (RFC 6455 section 7.4.1).
    pub fn is_final(&self) -> bool {
        self.code.is_some_and(|code| code >= FIRST_FINAL_CODE || matches!(code, 1002 | 1003 | 1007 | 1009))
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "closed by the gateway: {code} {}", self.reason.escape_debug()),
            None => write!(f, "connection lost: {}", self.reason.escape_debug()),
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    Unreachable(String),
    /// An HTTP answer instead of the upgrade.
    Refused {
        status: StatusCode,
        problem: String,
    },
}

impl ConnectError {
    /// Whether trying again is of no use.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Unreachable(_) => false,
            Self::Refused { status, .. } => !status.is_server_error() && *status != StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

impl From<tungstenite::Error> for ConnectError {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Http(response) => {
                let (head, body) = response.into_parts();
                Self::Refused { status: head.status, problem: problem_text(&body.unwrap_or_default()) }
            }
            tungstenite::Error::Io(error) => Self::Unreachable(io_text(&error)),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

fn io_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::UnexpectedEof => "closed during the handshake; is it TLS on one side only?".to_owned(),
        _ => error.to_string(),
    }
}

/// The last part of the problem's type and its detail (RFC 9457).
fn problem_text(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Problem {
        r#type: String,
        detail: String,
    }
    match serde_json::from_slice::<Problem>(body) {
        Ok(Problem { r#type, detail }) => {
            let slug = r#type.rsplit('/').next().unwrap_or_default();
            format!(", {}: {}", slug.escape_debug(), detail.escape_debug())
        }
        Err(_) => String::new(),
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "cannot connect: {why}"),
            Self::Refused { status, problem } => write!(f, "refused: HTTP {}{problem}", status.as_u16()),
        }
    }
}
