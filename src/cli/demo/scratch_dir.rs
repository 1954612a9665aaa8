//! The demo's temporary directory: keys, a token and a configuration.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use lastmile_client::signature::fresh_nonce;

use crate::auth::keys::{generate, to_openssh_public, to_pkcs8_pem};
use crate::auth::token::{MintingKey, TokenRequest};
use crate::broker::Now;
use crate::cli::failure::Failure;
use crate::cli::keygen::write_new;

/// Channel of the demo's publisher; the page subscribes to it.
pub const TICKER_CHANNEL: &str = "demo.ticker";

/// A channel that needs the demo's token.
pub const MEMBERS_CHANNEL: &str = "members.news";

const ISSUER: &str = "lastmile-demo";
const AUDIENCE: &str = "lastmile";
/// The gateway's default for `issuers[].max_lifetime_secs`.
const TOKEN_SECS: u64 = 24 * 60 * 60;

pub struct DemoFiles {
    directory: PathBuf,
    key: SigningKey,
}

impl DemoFiles {
    /// `port` is the first of three; 0 for any free ports.
    pub fn new(port: u16, geoip: Option<&Path>) -> Result<Self, Failure> {
        let random = fresh_nonce().map_err(failed)?;
        let directory = std::env::temp_dir().join(format!("lastmile-demo-{random}"));
        DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|error| Failure::failed(format!("{}: {error}", directory.display())))?;
        // From here on, `Drop` removes the directory.
        let files = Self { directory, key: generate().map_err(failed)? };
        files.write(port, geoip)?;
        Ok(files)
    }

    pub fn config(&self) -> PathBuf {
        self.directory.join("lastmile.toml")
    }

    pub fn key_file(&self) -> PathBuf {
        self.directory.join("publisher.key")
    }

    pub fn token_file(&self) -> PathBuf {
        self.directory.join("token")
    }

    fn write(&self, port: u16, geoip: Option<&Path>) -> Result<(), Failure> {
        let issuer = MintingKey::from_ed25519(&generate().map_err(failed)?).map_err(failed)?;
        let request = TokenRequest {
            issuer: ISSUER.to_owned(),
            subject: "you".to_owned(),
            audiences: vec![AUDIENCE.to_owned()],
            lifetime_secs: TOKEN_SECS,
            ..TokenRequest::default()
        };
        let token = issuer.mint(request, Now::read().unix()).map_err(failed)?;
        let jwks = serde_json::to_string(&issuer.jwks()).map_err(failed)?;
        let pem = to_pkcs8_pem(&self.key).map_err(failed)?;
        write_new(&self.key_file(), pem.as_bytes())?;
        write_new(&self.token_file(), token.as_bytes())?;
        write_new(&self.directory.join("issuer.jwks.json"), jwks.as_bytes())?;
        write_new(&self.config(), self.config_text(port, geoip).as_bytes())
    }

    fn config_text(&self, port: u16, geoip: Option<&Path>) -> String {
        let [public, publish, ops] = if port == 0 { [0; 3] } else { [port, port + 1, port + 2] };
        let key = to_openssh_public(&self.key.verifying_key(), "demo");
        // A JSON string is valid TOML.
        let jwks = serde_json::Value::from(self.directory.join("issuer.jwks.json").to_string_lossy());
        let geoip = geoip.map_or_else(String::new, |database| {
            let database = serde_json::Value::from(database.to_string_lossy());
            format!("[rooms]\ngeoip = true\n[geoip]\ndatabase = {database}\n")
        });
        format!(
            r#"egress = "none"
[listeners]
public = {{ address = "127.0.0.1:{public}", roles = ["subscribe", "pair"] }}
publish = {{ address = "127.0.0.1:{publish}", roles = ["publish"] }}
ops = {{ address = "127.0.0.1:{ops}", roles = ["ops"] }}
[publishers.demo]
key = "{key}"
channels = ["{TICKER_CHANNEL}", "{MEMBERS_CHANNEL}", "demo.*"]
[[issuers]]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
jwks_file = {jwks}
[[channels]]
match = "demo.*"
subscribers = "anyone"
backlog_messages = 20
[[channels]]
match = "{MEMBERS_CHANNEL}"
subscribers = "authenticated"
backlog_messages = 20
{geoip}[drain]
window_secs = 0
deadline_secs = 3
[log]
filter = "warn"
"#
        )
    }
}

impl Drop for DemoFiles {
    fn drop(&mut self) {
        // On failure the system's cleanup of temporary files removes it.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::failed(error.to_string())
}
