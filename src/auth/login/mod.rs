//! Logging people in at their identity provider (OpenID Connect Core 1.0, RFC 9700): what must hold, without HTTP.
//!
//! A login begins with a sealed [`Pending`] in the browser and ends with a sealed [`LoginSession`]. Nothing of it is
//! kept here but what must not count twice, so any node with the same keys takes any step. The access token that comes
//! with a login is dropped, and no refresh token is asked for.

mod claims;
mod error;
mod logout;
mod pending;
mod provider;
mod return_to;
pub mod seen;
mod session;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::revocation::Revocations;
use super::seal::{NoRandomness, SealKey, Sealer};
use seen::SeenOnce;

pub use claims::{IdToken, scopes_of};
pub use error::LoginError;
pub use logout::{LogoutToken, logout_url};
pub use oauth2::ClientSecret;
pub use pending::{MAX_AGE as PENDING_SECS, Pending};
pub use provider::{Endpoints, Redeemed};
pub use return_to::ReturnTo;
pub use session::LoginSession;

/// Where the provider sends the browser back to, below the public URL.
pub const CALLBACK: &str = "/v1/auth/callback";
/// Where the provider sends the browser after a logout.
pub const LOGGED_OUT: &str = "/v1/auth/logged-out";

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct LoginConfig {
    /// Scheme and authority that browsers reach this gateway by, as they write it in `Origin`.
    pub url: String,
    /// The first one seals. Empty for one that lives as long as the process.
    pub seal_keys: Vec<SealKey>,
    pub session: Duration,
    /// At least one; names and issuers occur once.
    pub providers: Vec<ProviderConfig>,
}

/// An identity provider, and how it knows this gateway.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// How people and URLs call it.
    pub name: String,
    pub issuer: String,
    pub client_id: String,
    /// `None` for a public client, which proves itself by PKCE alone.
    pub client_secret: Option<ClientSecret>,
    pub scopes: Vec<String>,
}

/// The login of this process: what is configured now, and what must not count twice.
pub struct Login {
    active: ArcSwapOption<Active>,
    /// Seals where no key is configured; stays the same over reloads.
    own_key: SealKey,
    states: SeenOnce,
    logouts: SeenOnce,
}

/// The login as it is configured now.
pub struct Active {
    config: LoginConfig,
    sealer: Sealer,
}

impl Login {
    /// `revocations` must know how long sessions live.
    pub fn new(config: Option<LoginConfig>, revocations: &Revocations) -> Result<Self, NoRandomness> {
        let this = Self {
            active: ArcSwapOption::empty(),
            own_key: SealKey::generate()?,
            states: SeenOnce::new(pending::MAX_AGE),
            logouts: SeenOnce::new(logout::MAX_AGE),
        };
        this.replace(config, revocations);
        Ok(this)
    }

    pub fn replace(&self, config: Option<LoginConfig>, revocations: &Revocations) {
        if let Some(config) = &config {
            // A session may begin a while after its ID token was issued.
            revocations.keep_for(config.session.as_secs().saturating_add(2 * pending::MAX_AGE));
        }
        let own = std::slice::from_ref(&self.own_key);
        let active = config.and_then(|config| {
            let keys = if config.seal_keys.is_empty() { own } else { &config.seal_keys };
            Some(Active { sealer: Sealer::new(keys)?, config })
        });
        self.active.store(active.map(Arc::new));
    }

    /// `None` if nobody can log in here.
    pub fn active(&self) -> Option<Arc<Active>> {
        self.active.load_full()
    }

    /// Whether the state of a login comes back for the first time.
    pub fn is_first_return(&self, pending: &Pending, now: u64) -> bool {
        self.states.is_first([&pending.issuer, pending.state()], now)
    }

    /// Whether a logout token is told for the first time.
    pub fn is_first_logout(&self, issuer: &str, token_id: &str, now: u64) -> bool {
        self.logouts.is_first([issuer, token_id], now)
    }
}

impl Active {
    /// Scheme and authority, without a path.
    pub fn url(&self) -> &str {
        &self.config.url
    }

    /// Whether cookies may travel without TLS: on loopback alone.
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

    fn redirect_uri(&self) -> String {
        format!("{}{CALLBACK}", self.config.url)
    }
}
