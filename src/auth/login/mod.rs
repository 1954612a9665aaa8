//! Login at an identity provider (OpenID Connect Core 1.0, RFC 9700), without HTTP.
//!
//! A login begins with a sealed [`Pending`] in the browser and ends with a sealed [`LoginSession`]. The node stores
//! only values that must be accepted once, so any node with the same keys can take the next step. Access tokens of a
//! login are dropped, and no refresh token is requested.

mod active;
mod claims;
mod error;
mod logout;
mod logout_share;
mod pending;
mod provider;
mod return_to;
mod seen;
mod session;

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::revocation::{Revocation, Revocations, Revoked};
use super::seal::{NoRandomness, SealKey};
use logout_share::LogoutShare;
use seen::SeenOnce;

pub use active::{Active, CALLBACK, LOGGED_OUT, LoginConfig, ProviderConfig};
pub use claims::IdToken;
pub use error::LoginError;
pub use logout::{LogoutToken, logout_url};
pub use oauth2::ClientSecret;
pub use pending::{MAX_PENDING_SECS, Pending};
pub use provider::{Endpoints, Redeemed};
pub use return_to::ReturnTo;
pub use session::LoginSession;

/// The login of this process: the current configuration, and the values that are accepted once.
pub struct Login {
    active: ArcSwapOption<Active>,
    /// Seals if no key is configured. Stays the same over reloads.
    own_key: SealKey,
    states: SeenOnce,
    logouts: SeenOnce,
    logout_share: LogoutShare,
}

impl Login {
    /// Extends the retention of `revocations` to the lifetime of sessions.
    pub fn new(config: Option<LoginConfig>, revocations: &Revocations) -> Result<Self, NoRandomness> {
        let this = Self {
            active: ArcSwapOption::empty(),
            own_key: SealKey::generate()?,
            states: SeenOnce::new(pending::MAX_PENDING_SECS),
            logouts: SeenOnce::new(logout::MAX_LOGOUT_TOKEN_AGE_SECS),
            logout_share: LogoutShare::default(),
        };
        this.replace(config, revocations);
        Ok(this)
    }

    pub fn replace(&self, config: Option<LoginConfig>, revocations: &Revocations) {
        if let Some(config) = &config {
            // A session may begin some time after its ID token was issued.
            revocations.keep_for(config.session.as_secs().saturating_add(2 * pending::MAX_PENDING_SECS));
        }
        let own = std::slice::from_ref(&self.own_key);
        let active = config.and_then(|config| {
            let keys = if config.seal_keys.is_empty() { own.to_vec() } else { config.seal_keys.clone() };
            Active::new(config, &keys)
        });
        self.active.store(active.map(Arc::new));
    }

    /// `None` if no login is configured.
    pub fn active(&self) -> Option<Arc<Active>> {
        self.active.load_full()
    }

    /// Whether the state of a login returns for the first time.
    pub fn is_first_return(&self, pending: &Pending, now: u64) -> bool {
        self.states.is_first([&pending.issuer, pending.state()], now)
    }

    /// Whether a logout token is received for the first time.
    pub fn is_first_logout(&self, issuer: &str, token_id: &str, now: u64) -> bool {
        self.logouts.is_first([issuer, token_id], now)
    }

    /// The revocation that ends a session. A person who ended more sessions than its share ends all of them with one
    /// entry.
    pub fn ends_session(&self, session: &LoginSession, revocations: &Revocations, now: u64) -> Revocation {
        let logouts = self.logout_share.count(&session.issuer, &session.subject, revocations.lifetime(), now);
        let what = if logouts > revocations.share_of_person() {
            Revoked::Subject(session.subject.as_str().into())
        } else {
            Revoked::TokenId(session.id.as_str().into())
        };
        Revocation { issuer: session.issuer.as_str().into(), what, before: session.issued.max(now) }
    }
}
