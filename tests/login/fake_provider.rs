//! A fake provider: discovery document, keys, and a token endpoint with answers of the test's choice.

use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::browser::{Begun, Browser};
use test_support::{Answer, unix_now};

pub struct Provider {
    pub issuer: String,
    key: SigningKey,
    state: Arc<Mutex<State>>,
}

/// Its behaviour, and the requests so far.
pub struct State {
    /// The body of the next answers of the token endpoint.
    pub token_answer: Value,
    pub status: u16,
    /// More or other members of the discovery document.
    pub metadata: Value,
    /// `Authorization` and body of the requests to the token endpoint.
    pub redeemed: Vec<(String, String)>,
}

impl Provider {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let key = lastmile::auth::keys::generate().unwrap();
        let state = State { token_answer: Value::Null, status: 200, metadata: json!({}), redeemed: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let jwks = json!({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k1",
            "x": URL_SAFE_NO_PAD.encode(key.verifying_key().to_bytes()),
        }]});
        let (shared, own) = (state.clone(), issuer.clone());
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (state, issuer, jwks) = (shared.clone(), own.clone(), jwks.clone());
                let answer = service_fn(move |request| answer(state.clone(), issuer.clone(), jwks.clone(), request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), answer));
            }
        });
        Self { issuer, key, state }
    }

    /// Its entry in the configuration.
    pub fn toml(&self, name: &str) -> String {
        format!(
            "[[issuers]]\nissuer = \"{}\"\naudience = \"lastmile\"\ndiscovery = true\n\
             login = {{ client_id = \"gateway\", client_secret_file = \"client.secret\", scopes = [\"openid\", \"read\"], \
             name = \"{name}\" }}\n",
            self.issuer
        )
    }

    pub fn state(&self) -> parking_lot::MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Claims of a good ID token for this login, changed by `change`; `null` takes a claim away.
    pub fn claims(&self, begun: &Begun, change: Value) -> Value {
        let now = unix_now();
        let mut claims = json!({
            "iss": self.issuer, "sub": "alice", "aud": "gateway", "iat": now, "exp": now + 300, "nonce": begun.nonce,
            "sid": "session-of-alice", "groups": ["staff"], "tenant": "acme", "name": "Alice",
        });
        merge(&mut claims, change);
        claims
    }

    /// The token endpoint answers with this ID token from now on.
    pub fn will_answer(&self, id_token: &str) {
        self.state().token_answer =
            json!({"access_token": "an-access-token", "token_type": "Bearer", "expires_in": 60, "id_token": id_token});
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({"alg": "EdDSA", "typ": "JWT", "kid": "k1"}), claims)
    }

    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        self.sign_text(&format!("{}.{}", part(header), part(claims)))
    }

    pub fn sign_text(&self, signed: &str) -> String {
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()).to_bytes()))
    }

    /// A whole login of alice, with a changed ID token; gives the answer to the callback.
    pub async fn log_in(&self, browser: &mut Browser, change: Value) -> Answer {
        let begun = browser.begin("").await;
        self.finish(browser, &begun, change).await
    }

    pub async fn finish(&self, browser: &mut Browser, begun: &Begun, change: Value) -> Answer {
        self.will_answer(&self.sign(&self.claims(begun, change)));
        browser.callback(&[("code", "c0de"), ("state", &begun.state), ("iss", &self.issuer)]).await
    }
}

pub fn merge(claims: &mut Value, change: Value) {
    let claims = claims.as_object_mut().unwrap();
    let Value::Object(change) = change else { return };
    for (name, value) in change {
        if value.is_null() {
            claims.remove(&name);
        } else {
            claims.insert(name, value);
        }
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    issuer: String,
    jwks: Value,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut state = state.lock();
    let (status, answer) = match head.uri.path() {
        "/.well-known/openid-configuration" => {
            let mut metadata = json!({
                "issuer": issuer, "jwks_uri": format!("{issuer}/jwks"),
                "authorization_endpoint": format!("{issuer}/auth"), "token_endpoint": format!("{issuer}/token"),
                "end_session_endpoint": format!("{issuer}/end"), "response_types_supported": ["code"],
                "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["EdDSA"],
                "authorization_response_iss_parameter_supported": true,
            });
            merge(&mut metadata, state.metadata.clone());
            (200, metadata)
        }
        "/jwks" => (200, jwks),
        "/token" => {
            let credentials = head.headers.get("authorization").map_or("", |value| value.to_str().unwrap());
            state.redeemed.push((credentials.to_owned(), String::from_utf8(body.to_vec()).unwrap()));
            (state.status, state.token_answer.clone())
        }
        _ => (404, Value::Null),
    };
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::new(answer.to_string().into())).unwrap())
}
