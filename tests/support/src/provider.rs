//! An identity provider on a real socket: a discovery document and a key set, and every way to fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::keys::TestIssuer;

/// How the provider answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    Good,
    /// Closes connections without a word.
    Down,
    /// Takes the request and never answers.
    Silent,
    /// Answers whatever is asked with these bytes.
    Says(Vec<u8>),
}

/// Runs until it is dropped.
pub struct TestProvider {
    /// The issuer's name, where it really listens.
    pub url: String,
    /// The certificate to trust, in PEM, if it uses TLS.
    pub certificate: Option<String>,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

struct State {
    behaviour: Behaviour,
    keys: Vec<Value>,
    document: Value,
    /// Requests by path, bad answers included.
    requests: BTreeMap<String, usize>,
}

impl TestProvider {
    /// `http` on 127.0.0.1.
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    /// `https` on localhost, with its own certificate.
    pub async fn start_tls() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        Self::listen(Some((TlsAcceptor::from(Arc::new(config)), made.cert.pem()))).await
    }

    async fn listen(tls: Option<(TlsAcceptor, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = if tls.is_some() { format!("https://localhost:{port}") } else { format!("http://127.0.0.1:{port}") };
        let document = json!({"issuer": url, "jwks_uri": format!("{url}/jwks"),
                              "authorization_endpoint": format!("{url}/authorize"), "token_endpoint": format!("{url}/token")});
        let (behaviour, keys, requests) = (Behaviour::Good, Vec::new(), BTreeMap::new());
        let state = Arc::new(Mutex::new(State { behaviour, keys, document, requests }));
        let (acceptor, certificate) = tls.unzip();
        let server = tokio::spawn(serve(listener, acceptor, state.clone()));
        Self { url, certificate, state, server }
    }

    pub fn behave(&self, behaviour: Behaviour) {
        self.state.lock().unwrap().behaviour = behaviour;
    }

    /// From now on these keys are published, and no others.
    pub fn publish(&self, issuers: &[&TestIssuer]) {
        let keys = issuers.iter().map(|issuer| issuer.jwks().parse::<Value>().unwrap()["keys"][0].clone());
        self.publish_raw(keys.collect());
    }

    pub fn publish_raw(&self, keys: Vec<Value>) {
        self.state.lock().unwrap().keys = keys;
    }

    /// Changes a member of the discovery document.
    pub fn document(&self, name: &str, value: &str) {
        self.state.lock().unwrap().document[name] = value.into();
    }

    /// A signer in this provider's name; its key is not published yet.
    pub fn issuer(&self) -> TestIssuer {
        TestIssuer::new(&self.url)
    }

    /// Requests for the key set so far.
    pub fn fetches(&self) -> usize {
        self.requests("/jwks")
    }

    pub fn requests(&self, path: &str) -> usize {
        self.state.lock().unwrap().requests.get(path).copied().unwrap_or(0)
    }

    /// All requests so far.
    pub fn all_requests(&self) -> usize {
        self.state.lock().unwrap().requests.values().sum()
    }
}

impl Drop for TestProvider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<Mutex<State>>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (tls, state) = (tls.clone(), state.clone());
        tokio::spawn(async move {
            match tls {
                Some(tls) => {
                    // A client that does not trust the certificate disconnects.
                    if let Ok(stream) = tls.accept(tcp).await {
                        answer(stream, &state).await;
                    }
                }
                None => answer::<TcpStream>(tcp, &state).await,
            }
        });
    }
}

/// One request and one answer.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, state: &Mutex<State>) {
    let mut request = vec![0; 8192];
    let mut filled = 0;
    while !request[..filled].ends_with(b"\r\n\r\n") {
        match stream.read(&mut request[filled..]).await {
            Ok(read) if read > 0 => filled += read,
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&request[..filled]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let (behaviour, good) = {
        let mut state = state.lock().unwrap();
        *state.requests.entry(path.clone()).or_default() += 1;
        (state.behaviour.clone(), good_answer(&path, &head, &state))
    };
    let bytes = match behaviour {
        Behaviour::Good => good,
        Behaviour::Down => return,
        Behaviour::Silent => std::future::pending().await,
        Behaviour::Says(bytes) => bytes,
    };
    // The client may have disconnected.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}

fn good_answer(path: &str, head: &str, state: &State) -> Vec<u8> {
    let body = match path {
        "/.well-known/openid-configuration" => state.document.to_string(),
        "/jwks" => json!({"keys": state.keys}).to_string(),
        _ => return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
    };
    // As good as a hash, for documents of a test.
    let etag = format!("\"{}-{}\"", body.len(), body.bytes().map(u64::from).sum::<u64>());
    if head.contains(&format!("if-none-match: {etag}\r\n")) {
        return b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec();
    }
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: {etag}\r\n\r\n{body}", body.len()).into_bytes()
}
