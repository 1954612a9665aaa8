//! Login at an identity provider (OpenID Connect Core 1.0, RFC 9700), without HTTP.
//!
//! A login begins with a sealed [`Pending`] in the browser and ends with a sealed [`LoginSession`]. The node stores
//! only values that must be accepted once, so any node with the same keys and store can take the next step. Access tokens of a
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
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::revocation::{Revocations, Revoked};
use super::seal::{NoRandomness, SealKey};
use crate::broker::SharedStore;
use crate::protocol::Refusal;
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
    /// Where sessions are valid.
    place: String,
    states: SeenOnce,
    logouts: SeenOnce,
    logout_share: LogoutShare,
}

impl Login {
    /// Extends the retention of `revocations` to the lifetime of sessions. `store` is the identity of the store that keeps
    /// logouts; without one, sessions end with the process, because nothing knows later which of them ended.
    pub fn new(
        config: Option<LoginConfig>,
        revocations: &Revocations,
        store: Option<String>,
    ) -> Result<Self, NoRandomness> {
        let place = match store {
            Some(identity) => identity,
            None => format!("process {}", random_name()?),
        };
        let this = Self {
            place,
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
            Active::new(config, &keys, &self.place)
        });
        self.active.store(active.map(Arc::new));
    }

    /// `None` if no login is configured.
    pub fn active(&self) -> Option<Arc<Active>> {
        self.active.load_full()
    }

    /// Whether the state of a login returns for the first time to this process.
    pub fn is_first_return(&self, pending: &Pending, now: u64) -> bool {
        self.states.is_first([&pending.issuer, pending.state()], now)
    }

    /// Uses up a login that the provider confirmed. Returns whether no process and no other node has done so before.
    ///
    /// After [`Login::is_first_return`], so that only confirmed logins take space in the store.
    pub async fn complete(&self, pending: &Pending, store: &dyn SharedStore) -> Result<bool, Refusal> {
        let name = spent_name("login", [&pending.issuer, pending.state()]);
        store.spend(&name, Duration::from_secs(pending::MAX_PENDING_SECS)).await
    }

    /// Uses up a verified logout token. Returns whether it is received for the first time.
    pub async fn is_first_logout(
        &self,
        issuer: &str,
        token_id: &str,
        now: u64,
        store: &dyn SharedStore,
    ) -> Result<bool, Refusal> {
        let ttl = Duration::from_secs(2 * logout::MAX_LOGOUT_TOKEN_AGE_SECS);
        let is_first = self.logouts.is_first([issuer, token_id], now);
        Ok(is_first && store.spend(&spent_name("logout", [issuer, token_id]), ttl).await?)
    }

    /// The selection that a logout revokes. A person whose logouts exceed its share ends all its sessions with one entry.
    pub fn within_share(
        &self,
        issuer: &str,
        subject: Option<&str>,
        revoked: Revoked,
        revocations: &Revocations,
        now: u64,
    ) -> Revoked {
        let Some(subject) = subject else { return revoked };
        let logouts = self.logout_share.count(issuer, subject, revocations.lifetime(), now);
        if logouts > revocations.share_of_person() { Revoked::Subject(subject.into()) } else { revoked }
    }
}

/// The name under which a store keeps a pair that was used. Different pairs have different names.
fn spent_name(kind: &str, pair: [&str; 2]) -> String {
    format!("{kind}:{}", URL_SAFE_NO_PAD.encode(seen::digest(pair)))
}

fn random_name() -> Result<String, NoRandomness> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
