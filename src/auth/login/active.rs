//! The configured login: providers, seal keys and session lifetime.

use std::time::Duration;

use oauth2::ClientSecret;

use crate::auth::seal::{SealKey, Sealer};

/// Path to which the provider redirects the browser after a login.
pub const CALLBACK: &str = "/v1/auth/callback";
/// Path to which the provider redirects the browser after a logout.
pub const LOGGED_OUT: &str = "/v1/auth/logged-out";

/// The login as the configuration describes it.
#[derive(Clone, Debug)]
pub struct LoginConfig {
    /// Origin of this gateway as browsers send it in `Origin`: scheme and authority.
    pub url: String,
    /// The path under which a proxy serves this gateway: empty, or with a leading slash alone.
    pub path: String,
    /// The first key seals. If empty, the process uses a key of its own.
    pub seal_keys: Vec<SealKey>,
    pub session: Duration,
    /// At least one. Names and issuers are unique.
    pub providers: Vec<ProviderConfig>,
}

/// An identity provider, and this gateway's registration there.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// Name in URLs and on the page that lists providers.
    pub name: String,
    pub issuer: String,
    pub client_id: String,
    /// `None` for a public client, which uses PKCE only.
    pub client_secret: Option<ClientSecret>,
    pub scopes: Vec<String>,
    /// Claim of the ID token with the groups: a name, or a JSON Pointer.
    pub groups_claim: String,
    /// Further audiences that an ID token may have without `azp`.
    pub known_audiences: Vec<String>,
}

/// The current configuration of the login.
pub struct Active {
    config: LoginConfig,
    sealer: Sealer,
}

impl Active {
    /// `None` without a key.
    pub(super) fn new(config: LoginConfig, keys: &[SealKey], place: &str) -> Option<Self> {
        Some(Self { sealer: Sealer::new(keys, place)?, config })
    }

    /// Scheme and authority, without a path.
    pub fn url(&self) -> &str {
        &self.config.url
    }

    /// The path under which browsers reach this gateway; empty for the whole host.
    pub fn path(&self) -> &str {
        &self.config.path
    }

    /// Host, and port if it is not the default.
    pub fn authority(&self) -> &str {
        self.config.url.split_once("://").map_or("", |(_, authority)| authority)
    }

    /// Whether cookies may be sent without TLS: on loopback only.
    pub fn is_plain(&self) -> bool {
        self.config.url.starts_with("http://")
    }

    pub fn session_secs(&self) -> u64 {
        self.config.session.as_secs()
    }

    pub fn providers(&self) -> &[ProviderConfig] {
        &self.config.providers
    }

    pub fn provider_named(&self, name: &str) -> Option<&ProviderConfig> {
        self.config.providers.iter().find(|provider| provider.name == name)
    }

    pub fn provider_of(&self, issuer: &str) -> Option<&ProviderConfig> {
        self.config.providers.iter().find(|provider| provider.issuer == issuer)
    }

    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// The URL of a path of this gateway.
    pub(super) fn url_of(&self, path: &str) -> String {
        format!("{}{}{path}", self.config.url, self.config.path)
    }

    pub(super) fn redirect_uri(&self) -> String {
        self.url_of(CALLBACK)
    }
}
