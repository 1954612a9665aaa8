//! A real provider (npm oidc-provider, certified) instead of one that a test plays.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::browser::Browser;
use test_support::{Answer, TEST_TIMEOUT, free_port, with_timeout};

use crate::test_env::LoginEnv;

struct Real {
    issuer: String,
    process: Child,
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Real {
    /// Knows the gateway at `url`, and a robot that gets access tokens for itself.
    async fn start(url: &str) -> Self {
        let clients = json!([
            {
                "client_id": "gateway", "client_secret": "s3cret", "redirect_uris": [format!("{url}/v1/auth/callback")],
                "post_logout_redirect_uris": [format!("{url}/v1/auth/logged-out")],
                "backchannel_logout_uri": format!("{url}/v1/auth/backchannel-logout"),
                "backchannel_logout_session_required": true,
            },
            {
                "client_id": "robot", "client_secret": "r0bot", "redirect_uris": [], "response_types": [],
                "grant_types": ["client_credentials"],
            },
        ]);
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oidc_provider");
        let mut process = Command::new("node")
            .arg("provider.mjs")
            .current_dir(folder)
            .env("CLIENTS", clients.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node, and `npm ci --prefix tests/oidc_provider`");
        let output = process.stdout.take().unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).map(|_| line)
        });
        let line = with_timeout("the provider", reading).await.unwrap().unwrap();
        let started: Value = serde_json::from_str(&line).expect("a provider: `npm ci --prefix tests/oidc_provider`");
        Self { issuer: started["issuer"].as_str().unwrap().to_owned(), process }
    }

    fn toml(&self) -> String {
        format!(
            "[[issuers]]\nissuer = \"{}\"\naudience = \"lastmile\"\ndiscovery = true\n\
             login = {{ client_id = \"gateway\", client_secret_file = \"client.secret\", scopes = [\"openid\", \"profile\"], \
             name = \"company\" }}\n",
            self.issuer
        )
    }

    async fn control(&self, change: Value) {
        let answer = self.call("POST", "/control", &[], &change.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    async fn requests(&self, path: &str) -> u64 {
        self.call("GET", "/control", &[], "").await.json()[path].as_u64().unwrap_or(0)
    }

    async fn access_token(&self) -> String {
        let form = "grant_type=client_credentials&resource=https%3A%2F%2Flastmile.example&scope=read\
                    &client_id=robot&client_secret=r0bot";
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let answer = self.call("POST", "/token", &headers, form).await;
        answer.json()["access_token"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
    }

    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        Browser::new(&self.issuer).send(method, path, headers, body).await
    }
}

/// A session holds the groups that rules name.
const RULE_OF_STAFF: &str = "[[channels]]\nmatch = \"staff.*\"\nsubscribers = { group = [\"staff\"] }\n";

async fn start() -> (Real, LoginEnv) {
    let port = free_port();
    let real = Real::start(&format!("http://127.0.0.1:{port}")).await;
    let env = LoginEnv::at(port, &real.toml(), RULE_OF_STAFF).await;
    (real, env)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_and_logout_at_real_provider() {
    let (_real, env) = start().await;
    let mut browser = Browser::new(&env.url);
    let answer = browser.log_in_as("alice", "?return_to=/app").await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/app"), "{answer:?}");
    let session = browser.get("/v1/auth/session").await.json();
    assert_eq!((&session["principal"], &session["groups"]), (&json!("alice"), &json!(["staff"])), "{session}");
    let mut ws = browser.live().await;
    ws.subscribe("news").await;
    env.base.publish("news", "{\"n\":1}").await;
    assert_eq!(ws.expect("message").await["data"]["n"], 1);

    // Here and at the provider: its page asks, and leads back.
    let answer = browser.send("POST", "/v1/auth/logout", &[("origin", &env.url.clone())], "").await;
    ws.expect_close(4503, "revoked").await;
    let at_provider = answer.json()["logout_url"].as_str().unwrap().to_owned();
    let mut left = browser.send("GET", &at_provider, &[], "").await;
    let form = left.text().to_owned();
    let xsrf = form.split("name=\"xsrf\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
    let body = format!("xsrf={}&logout=yes", xsrf.unwrap_or_else(|| panic!("{form}")));
    let confirm = at_provider.split("/session/end").next().unwrap().to_owned() + "/session/end/confirm";
    left = browser.send("POST", &confirm, &[("content-type", "application/x-www-form-urlencoded")], &body).await;
    assert!(left.header("location").starts_with(&format!("{}/v1/auth/logged-out", env.url)), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provider_logout_ends_connections() {
    let (real, env) = start().await;
    let (mut alice, mut bob) = (Browser::new(&env.url), Browser::new(&env.url));
    alice.log_in_as("alice", "").await;
    bob.log_in_as("bob", "").await;
    let (mut ws, mut others) = (alice.live().await, bob.live().await);
    // She logs out at the provider, as from another application of the company.
    let page = alice.send("GET", &format!("{}/session/end?client_id=gateway", real.issuer), &[], "").await;
    let xsrf =
        page.text().split("name=\"xsrf\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().to_owned();
    let confirm = format!("{}/session/end/confirm", real.issuer);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    alice.send("POST", &confirm, &form, &format!("xsrf={xsrf}&logout=yes")).await;
    ws.expect_close(4503, "revoked").await;
    others.expect_silence().await;
    assert_eq!(alice.get("/v1/auth/session").await.status, 401);
    assert_eq!(bob.get("/v1/auth/session").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_token_refresh_keeps_session() {
    let (real, env) = start().await;
    real.control(json!({"access_secs": 10})).await;
    let mut ws = env.base.connect().await;
    ws.hello(Some(&real.access_token().await)).await;
    let mut left = env.base.connect().await;
    left.hello(Some(&real.access_token().await)).await;
    real.control(json!({"access_secs": 3600})).await;
    let token = real.access_token().await;
    ws.send(json!({"type": "refresh", "id": "1", "token": token})).await;
    ws.expect("refreshed").await;
    left.expect_close(4003, "token_expired").await;
    ws.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_rotation_under_load() {
    let (real, env) = start().await;
    let mut browser = Browser::new(&env.url);
    assert_eq!(browser.log_in_as("alice", "").await.status, 303);
    let before = real.requests("/jwks").await;
    real.control(json!({"rotate": true})).await;
    let token = real.access_token().await;
    let connect = async || {
        let mut ws = env.base.connect().await;
        ws.hello(Some(&token)).await["principal"].clone()
    };
    let all = futures_util::future::join_all((0..200).map(|_| connect())).await;
    assert!(all.iter().all(|principal| principal == "robot"));
    let fetches = real.requests("/jwks").await - before;
    assert!(fetches <= 3, "{fetches} fetches");
    let mut late = Browser::new(&env.url);
    assert_eq!(late.log_in_as("bob", "").await.status, 303);
    assert_eq!(browser.get("/v1/auth/session").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_provider_keeps_sessions() {
    let (real, env) = start().await;
    let mut browser = Browser::new(&env.url);
    browser.log_in_as("alice", "").await;
    let mut ws = browser.live().await;
    let mut late = Browser::new(&env.url);
    let begun = late.begin("").await;
    let parameters = |state: &str| {
        [
            ("code".to_owned(), "c".to_owned()),
            ("state".to_owned(), state.to_owned()),
            ("iss".to_owned(), real.issuer.clone()),
        ]
    };
    let come_back = async |late: &mut Browser, state: &str| {
        let all = parameters(state);
        let all: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        late.callback(&all).await
    };
    real.control(json!({"down": true})).await;
    let answer = come_back(&mut late, &begun.state).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.text().contains("login-unavailable"));

    // Slow: the wait is bounded, and others do not notice.
    real.control(json!({"down": false, "delay_ms": 600_000})).await;
    let begun = late.begin("").await;
    let waiting = tokio::time::timeout(TEST_TIMEOUT, come_back(&mut late, &begun.state));
    let lively = async {
        for _ in 0..20 {
            ws.expect_silence().await;
            assert_eq!(browser.get("/v1/auth/session").await.status, 200);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (answer, ()) = tokio::join!(waiting, lively);
    assert_eq!(answer.expect("an answer in time").status, 503);
}
