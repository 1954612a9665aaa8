//! Passwords of publishers that cannot sign (RFC 7617): kept as Argon2id hashes (RFC 9106) in the PHC string format.

use std::fmt;

use argon2::password_hash::phc;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params};

/// Most memory of one verification, in KiB, and its most passes and lanes: a hash is checked for every stranger.
const MAX_MEMORY_KIB: u32 = 65_536;
const MAX_PASSES: u32 = 8;
const MAX_LANES: u32 = 4;

/// How a client may publish with a password.
#[derive(Clone, Debug)]
pub struct BasicConfig {
    /// Without a colon.
    pub username: String,
    pub hash: PasswordHash,
}

/// What a password is checked with.
#[derive(Clone)]
pub struct PasswordHash {
    phc: phc::PasswordHash,
    cost: u64,
}

/// Why a text is no [`PasswordHash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHash {
    NotPhc,
    NotArgon2id,
    TooCostly,
    /// No randomness, or a password that Argon2 does not take.
    NotMade,
}

impl PasswordHash {
    /// Reads `$argon2id$v=19$m=…,t=…,p=…$salt$hash`.
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

    /// Hashes a password with a fresh salt, at the costs that OWASP recommends (19 MiB, two passes).
    pub fn make(password: &str) -> Result<String, BadHash> {
        let hash = Argon2::default().hash_password(password.as_bytes()).map_err(|_| BadHash::NotMade)?;
        Ok(hash.to_string())
    }

    /// Takes a while, by design: not for a thread that others wait for.
    pub fn verify(&self, password: &str) -> bool {
        Argon2::default().verify_password(password.as_bytes(), &self.phc).is_ok()
    }

    /// For telling hashes apart; never for people.
    pub(super) fn text(&self) -> String {
        self.phc.to_string()
    }

    /// Work of one verification, to compare.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// Whether it costs less than what [`PasswordHash::make`] makes.
    pub fn is_weak(&self) -> bool {
        self.cost < cost(&Params::DEFAULT)
    }
}

/// Blocks of memory that are written.
fn cost(params: &Params) -> u64 {
    u64::from(params.m_cost()) * u64::from(params.t_cost())
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

impl fmt::Display for BadHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPhc => f.write_str("it is not of the form $argon2id$v=19$m=…,t=…,p=…$salt$hash"),
            Self::NotArgon2id => f.write_str("it is no complete Argon2id hash"),
            Self::TooCostly => {
                write!(f, "it costs too much; at most m={MAX_MEMORY_KIB}, t={MAX_PASSES}, p={MAX_LANES}")
            }
            Self::NotMade => f.write_str("the password cannot be hashed"),
        }
    }
}

impl std::error::Error for BadHash {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_that_costs_too_much_or_is_of_another_kind_is_refused() {
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
    fn what_is_made_verifies_its_password_alone_and_is_never_shown() {
        let text = PasswordHash::make("pass:word é").unwrap();
        let hash = PasswordHash::parse(&text).unwrap();
        assert!(hash.verify("pass:word é") && !hash.verify("pass:word") && !hash.is_weak());
        assert!(!format!("{hash:?}").contains("argon2"));
    }
}
