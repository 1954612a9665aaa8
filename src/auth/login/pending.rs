//! Pending logins: the sealed state in the browser from the redirect until the callback.

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::active::Active;
use super::error::LoginError;
use super::return_to::ReturnTo;
use crate::auth::seal::Purpose;

/// Longest time at the provider, in seconds (ASVS 10.5.1).
pub const MAX_PENDING_SECS: u64 = 600;

/// No `Debug`: it holds the secrets of a login.
#[derive(Serialize, Deserialize)]
pub struct Pending {
    pub(super) state: String,
    pub(super) nonce: String,
    pub(super) verifier: String,
    pub issuer: String,
    pub return_to: ReturnTo,
}

impl Pending {
    /// The state that the callback returns. Its first characters name the cookie, so each tab has its own.
    pub fn state(&self) -> &str {
        &self.state
    }

    pub fn seal(&self, login: &Active, now: u64) -> Result<String, LoginError> {
        let text = serde_json::to_vec(self).map_err(|_| LoginError::NoRandomness)?;
        Ok(login.sealer().seal(Purpose::PendingLogin, &text, now + MAX_PENDING_SECS)?)
    }

    /// Opens a browser's cookie, if it belongs to the login with this `state`.
    pub fn open(login: &Active, sealed: &str, state: &str, now: u64) -> Result<Self, LoginError> {
        let opened = login.sealer().open(Purpose::PendingLogin, sealed, now);
        let opened = opened.map_err(|_| LoginError::NotPending("cookie cannot be opened"))?;
        let pending: Self =
            serde_json::from_slice(&opened).map_err(|_| LoginError::NotPending("cookie of another version"))?;
        if !bool::from(pending.state.as_bytes().ct_eq(state.as_bytes())) {
            return Err(LoginError::NotPending("state of another login"));
        }
        Ok(pending)
    }
}
