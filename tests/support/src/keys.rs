//! Keys of the tests: publishers that sign requests, issuers that sign tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use http::Request;
use lastmile::auth::keys;
use lastmile::auth::token::{MintingKey, TokenRequest};
use lastmile_client::{Key, signature};
use serde_json::{Map, Value};

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A publisher with its own key.
pub struct TestPublisher {
    key: SigningKey,
    signer: Key,
}

impl TestPublisher {
    pub fn new() -> Self {
        let key = keys::generate().unwrap();
        Self { signer: Key::from_text(&keys::to_pkcs8_pem(&key).unwrap()).unwrap(), key }
    }

    /// The line for the whitelist.
    pub fn public_line(&self) -> String {
        keys::to_openssh_public(&self.key.verifying_key(), "test")
    }

    /// `SHA256:…`
    pub fn fingerprint(&self) -> &str {
        self.signer.fingerprint()
    }

    /// The private key as PKCS#8 PEM.
    pub fn private_pem(&self) -> String {
        keys::to_pkcs8_pem(&self.key).unwrap().to_string()
    }

    /// An entry of the configuration.
    pub fn toml(&self, name: &str, channels: &[&str]) -> String {
        format!("\n[publishers.{name}]\nkey = {:?}\nchannels = {channels:?}\n", self.public_line())
    }

    /// A signed request for `authority`; `path` may have a query, `body` is its type and its bytes.
    pub fn request(&self, authority: &str, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Request<Bytes> {
        self.request_at(authority, method, path, body, unix_now())
    }

    /// The same, signed at another time.
    pub fn request_at(
        &self,
        authority: &str,
        method: &str,
        path: &str,
        body: Option<(&str, &[u8])>,
        now: u64,
    ) -> Request<Bytes> {
        let (bare, query) = path.split_once('?').map_or((path, None), |(bare, query)| (bare, Some(query)));
        let target = signature::Request { method, authority, path: bare, query, body };
        let headers = target.sign_at(&self.signer, now, &signature::fresh_nonce().unwrap()).unwrap();
        let bytes = Bytes::copy_from_slice(body.map_or(&[], |(_, bytes)| bytes));
        let mut request = Request::builder().method(method).uri(path).header("host", authority).body(bytes).unwrap();
        request.headers_mut().extend(headers);
        request
    }
}

/// An issuer of tokens with its own key.
pub struct TestIssuer {
    pub name: String,
    key: MintingKey,
}

impl TestIssuer {
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), key: MintingKey::from_ed25519(&keys::generate().unwrap()).unwrap() }
    }

    /// Its public keys, for `jwks_file`.
    pub fn jwks(&self) -> String {
        serde_json::to_string(&self.key.jwks()).unwrap()
    }

    /// A token of `subject` for an hour.
    pub fn token(&self, subject: &str) -> String {
        self.token_with(subject, 3600, |_| {})
    }

    /// A token with what `change` makes of the request.
    pub fn token_with(&self, subject: &str, lifetime_secs: u64, change: impl FnOnce(&mut TokenRequest)) -> String {
        self.token_at(unix_now(), subject, lifetime_secs, change)
    }

    /// The same, issued at another time.
    pub fn token_at(
        &self,
        now: u64,
        subject: &str,
        lifetime_secs: u64,
        change: impl FnOnce(&mut TokenRequest),
    ) -> String {
        let mut request = TokenRequest {
            issuer: self.name.clone(),
            subject: subject.into(),
            audiences: vec!["lastmile".into()],
            lifetime_secs,
            scopes: Vec::new(),
            groups: Vec::new(),
            claims: Map::<String, Value>::new(),
        };
        change(&mut request);
        self.key.mint(request, now).unwrap()
    }
}
