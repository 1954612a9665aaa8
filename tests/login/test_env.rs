//! A gateway that people can log in at.

use std::fs::File;
use std::path::Path;

use test_support::gateway::TestGateway;
use test_support::{TempDir, TestEnv, TestIssuer, TestPublisher, eventually, free_port};

pub struct LoginEnv {
    pub base: TestEnv,
    /// How browsers reach the gateway.
    pub url: String,
}

impl LoginEnv {
    /// `issuers` are entries of the configuration; `login` more of `[login]`, or what follows it.
    pub async fn start(issuers: &str, login: &str) -> Self {
        // The redirect URI must be known before the gateway is bound.
        Self::at(free_port(), issuers, login).await
    }

    pub async fn at(port: u16, issuers: &str, login: &str) -> Self {
        let (publisher, issuer, folder) =
            (TestPublisher::new(), TestIssuer::new("https://sso.example.com"), TempDir::new());
        folder.write("sso.json", &issuer.jwks());
        folder.write("client.secret", "s3cret\n");
        let toml = toml(port, &publisher.toml("market-data", &["*"]), issuers, login);
        let gateway = TestGateway::start(&toml, &folder).await;
        Self { base: TestEnv::of(gateway, folder, publisher, issuer), url: format!("http://127.0.0.1:{port}") }
    }

    /// Behind a proxy that serves the gateway at `public_url`; without `login.url`.
    pub async fn mounted_at(port: u16, public_url: &str, issuers: &str) -> Self {
        let (publisher, issuer, folder) =
            (TestPublisher::new(), TestIssuer::new("https://sso.example.com"), TempDir::new());
        folder.write("sso.json", &issuer.jwks());
        folder.write("client.secret", "s3cret\n");
        let toml = toml(port, &publisher.toml("market-data", &["*"]), issuers, "")
            .replace(&format!("url = \"http://127.0.0.1:{port}\""), "")
            .replace("origins =", &format!("public_url = \"{public_url}\"\norigins ="));
        let gateway = TestGateway::start(&format!("trusted_proxies = [\"127.0.0.1\"]\n{toml}"), &folder).await;
        Self { base: TestEnv::of(gateway, folder, publisher, issuer), url: format!("http://127.0.0.1:{port}") }
    }

    /// Takes other issuers and another `[login]`.
    pub fn reload(&self, issuers: &str, login: &str) -> Result<(), String> {
        let port = self.url.rsplit(':').next().unwrap().parse().unwrap();
        let toml = toml(port, &self.base.publisher.toml("market-data", &["*"]), issuers, login);
        self.base.gateway.reload(&toml, &self.base.folder)
    }
}

/// Waits until a stopped gateway has closed its store: the last of its connections may end later.
pub async fn closed(store: &Path) {
    eventually("the store to be closed", async || File::open(store).unwrap().try_lock().ok()).await;
}

fn toml(port: u16, publishers: &str, issuers: &str, login: &str) -> String {
    format!(
        r#"
        [listeners.public]
        address = "127.0.0.1:{port}"
        roles = ["subscribe", "login"]
        origins = ["https://app.example.com"]
        [listeners.publish]
        address = "127.0.0.1:0"
        roles = ["publish"]
        [listeners.ops]
        address = "127.0.0.1:0"
        roles = ["ops"]
        [drain]
        window_secs = 0
        deadline_secs = 10
        {publishers}
        {issuers}
        [login]
        url = "http://127.0.0.1:{port}"
        {login}"#
    )
}
