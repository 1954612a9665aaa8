//! Why an issuer cannot be used as configured.

use std::fmt;

use jsonwebtoken::Algorithm;

use super::key_set::SkippedKey;

/// An issuer that cannot be used as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerError {
    pub issuer: String,
    pub problem: IssuerProblem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerProblem {
    /// The same issuer is configured before.
    Duplicate,
    NoIssuer,
    NoAudience,
    NoAlgorithm,
    /// HS256 and the like.
    SymmetricAlgorithm(Algorithm),
    /// Two keys with this `kid` go with the same algorithm.
    DuplicateKeyId(String),
    /// No key can verify anything, and why.
    NoUsableKey(Vec<SkippedKey>),
}

impl fmt::Display for IssuerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "issuer {:?}: {}", self.issuer, self.problem)
    }
}

impl fmt::Display for IssuerProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate => f.write_str("configured twice"),
            Self::NoIssuer => f.write_str("the name is empty"),
            Self::NoAudience => f.write_str("an audience is needed"),
            Self::NoAlgorithm => f.write_str("an algorithm is needed"),
            Self::SymmetricAlgorithm(algorithm) => {
                write!(f, "{algorithm:?} is symmetric; name algorithms of public keys, such as ES256")
            }
            Self::DuplicateKeyId(key_id) => write!(f, "two keys have the kid {key_id:?}"),
            Self::NoUsableKey(skipped) => {
                f.write_str("the key set has no usable key")?;
                skipped.iter().try_for_each(|key| write!(f, "; {key}"))
            }
        }
    }
}

impl std::error::Error for IssuerError {}
