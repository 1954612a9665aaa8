//! Errors of issuers: unusable configuration, missing provider metadata, refused keys.

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
    /// The issuer is configured twice.
    Duplicate,
    NoIssuer,
    NoAudience,
    NoAlgorithm,
    /// HS256 and the like.
    SymmetricAlgorithm(Algorithm),
    /// Two keys with this `kid` support the same algorithm.
    DuplicateKeyId(String),
    /// No key can verify signatures. Holds the reasons.
    NoUsableKey(Vec<SkippedKey>),
}

/// Why the metadata of a provider is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataError {
    IssuerUnknown,
    /// The issuer is configured without `discovery = true`.
    NoDiscovery,
    /// The fetch failed; the log has the cause.
    Unavailable,
}

/// Why pushed keys are refused. The previous keys stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplaceError {
    IssuerUnknown,
    /// The issuer's keys are fetched, so the next fetch would replace pushed ones.
    Fetched,
    Unusable(IssuerProblem),
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
            Self::NoIssuer => f.write_str("issuer is empty"),
            Self::NoAudience => f.write_str("no audience"),
            Self::NoAlgorithm => f.write_str("no algorithm"),
            Self::SymmetricAlgorithm(algorithm) => {
                write!(f, "{algorithm:?} is symmetric; use algorithms of public keys, such as ES256")
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

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IssuerUnknown => "not a configured issuer",
            Self::NoDiscovery => "the issuer is configured without discovery = true",
            Self::Unavailable => "the provider's discovery document could not be fetched",
        })
    }
}

impl fmt::Display for ReplaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IssuerUnknown => f.write_str("not a configured issuer"),
            Self::Fetched => f.write_str("the issuer's keys are fetched; only those of a jwks_file can be pushed"),
            Self::Unusable(problem) => problem.fmt(f),
        }
    }
}

impl std::error::Error for MetadataError {}
impl std::error::Error for ReplaceError {}
