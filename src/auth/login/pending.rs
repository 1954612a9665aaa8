//! A login that has begun and has not come back: what its browser keeps until then, sealed.

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::{Active, LoginError, ReturnTo};
use crate::auth::seal::Purpose;

/// Seconds that a person may take at the provider (ASVS 10.5.1).
pub const MAX_AGE: u64 = 600;

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
    /// What the provider brings back; its head names the cookie, so that every tab has its own.
    pub fn state(&self) -> &str {
        &self.state
    }

    pub fn seal(&self, login: &Active, now: u64) -> Result<String, LoginError> {
        let text = serde_json::to_vec(self).map_err(|_| LoginError::NoRandomness)?;
        Ok(login.sealer().seal(Purpose::PendingLogin, &text, now + MAX_AGE)?)
    }

    /// Opens what a browser brought, if it began the login that comes back with `state`.
    pub fn open(login: &Active, sealed: &str, state: &str, now: u64) -> Result<Self, LoginError> {
        let opened = login.sealer().open(Purpose::PendingLogin, sealed, now);
        let opened = opened.map_err(|_| LoginError::NotPending("the cookie does not open"))?;
        let pending: Self =
            serde_json::from_slice(&opened).map_err(|_| LoginError::NotPending("the cookie is of another version"))?;
        if !bool::from(pending.state.as_bytes().ct_eq(state.as_bytes())) {
            return Err(LoginError::NotPending("the state is that of another login"));
        }
        Ok(pending)
    }
}
