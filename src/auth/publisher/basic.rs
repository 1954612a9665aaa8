//! Password hashes of publishers that cannot sign (RFC 7617): Argon2id (RFC 9106) in PHC string format.

use std::fmt;

use argon2::password_hash::phc;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params};

/// Limits of one verification (memory in KiB, passes, lanes): any client can cause verifications.
const MAX_MEMORY_KIB: u32 = 65_536;
const MAX_PASSES: u32 = 8;
const MAX_LANES: u32 = 4;

/// User name and password of a publisher.
#[derive(Clone, Debug)]
pub struct BasicConfig {
    /// Contains no colon.
    pub username: String,
    pub hash: PasswordHash,
}

/// An Argon2id hash of a password.
#[derive(Clone)]
pub struct PasswordHash {
    phc: phc::PasswordHash,
    cost: u64,
}

/// Why a text is not a [`PasswordHash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHash {
    #[error("not of the form $argon2id$v=19$m=…,t=…,p=…$salt$hash")]
    NotPhc,
    #[error("not a complete Argon2id hash")]
    NotArgon2id,
    #[error("cost parameters are too large; at most m={}, t={}, p={}", MAX_MEMORY_KIB, MAX_PASSES, MAX_LANES)]
    TooCostly,
    /// No randomness, or a password that Argon2 does not accept.
    #[error("the password cannot be hashed")]
    NotMade,
}

impl PasswordHash {
    /// Parses `$argon2id$v=19$m=…,t=…,p=…$salt$hash`.
    pub fn parse(text: &str) -> Result<Self, BadHash> {
        let phc = phc::PasswordHash::new(text).map_err(|_| BadHash::NotPhc)?;
        if phc.algorithm != Algorithm::Argon2id.ident() || phc.salt.is_none() || phc.hash.is_none() {
            return Err(BadHash::NotArgon2id);
        }
        let params = Params::try_from(&phc).map_err(|_| BadHash::NotArgon2id)?;
        if params.m_cost() > MAX_MEMORY_KIB || params.t_cost() > MAX_PASSES || params.p_cost() > MAX_LANES {
            return Err(BadHash::TooCostly);
        }
        Ok(Self { phc, cost: cost(&params) })
    }

    /// Hashes a password with a new salt and the parameters that OWASP recommends (19 MiB, two passes).
    pub fn make(password: &str) -> Result<String, BadHash> {
        let hash = Argon2::default().hash_password(password.as_bytes()).map_err(|_| BadHash::NotMade)?;
        Ok(hash.to_string())
    }

    /// Slow by design: call it on a blocking thread.
    pub fn verify(&self, password: &str) -> bool {
        Argon2::default().verify_password(password.as_bytes(), &self.phc).is_ok()
    }

    /// For comparing hashes, never for output.
    pub(super) fn text(&self) -> String {
        self.phc.to_string()
    }

    /// Relative cost of one verification.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// Whether it costs less than the hashes of [`PasswordHash::make`].
    pub fn is_weak(&self) -> bool {
        self.cost < cost(&Params::DEFAULT)
    }
}

/// Number of memory blocks written.
fn cost(params: &Params) -> u64 {
    u64::from(params.m_cost()) * u64::from(params.t_cost())
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_expensive_and_other_hashes() {
        let check =
            |text: &str, expected: BadHash| assert_eq!(PasswordHash::parse(text).unwrap_err(), expected, "{text}");
        let hash = "c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        check("", BadHash::NotPhc);
        check("password", BadHash::NotPhc);
        check("$argon2id$v=19$m=8,t=1,p=1", BadHash::NotArgon2id);
        check(&format!("$argon2i$v=19$m=8,t=1,p=1${hash}"), BadHash::NotArgon2id);
        check(&format!("$argon2id$v=19$m=65537,t=1,p=1${hash}"), BadHash::TooCostly);
        check(&format!("$argon2id$v=19$m=4294967295,t=1,p=1${hash}"), BadHash::TooCostly);
        check(&format!("$argon2id$v=19$m=8,t=9,p=1${hash}"), BadHash::TooCostly);
        let weak = PasswordHash::parse(&format!("$argon2id$v=19$m=8,t=1,p=1${hash}")).unwrap();
        assert!(weak.is_weak() && !weak.verify("password"));
    }

    #[test]
    fn verifies_its_password_only() {
        let text = PasswordHash::make("pass:word é").unwrap();
        let hash = PasswordHash::parse(&text).unwrap();
        assert!(hash.verify("pass:word é") && !hash.verify("pass:word") && !hash.is_weak());
        assert!(!format!("{hash:?}").contains("argon2"));
    }
}
