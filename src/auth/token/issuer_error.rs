//! Errors of issuers: unusable configuration, missing provider metadata, refused keys.

use jsonwebtoken::Algorithm;

use super::key_set::SkippedKey;

/// An issuer that cannot be used as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("issuer {issuer:?}: {problem}")]
pub struct IssuerError {
    pub issuer: String,
    pub problem: IssuerProblem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerProblem {
    #[error("configured twice")]
    Duplicate,
    #[error("issuer is empty")]
    NoIssuer,
    #[error("no audience")]
    NoAudience,
    #[error("no algorithm")]
    NoAlgorithm,
    /// HS256 and the like.
    #[error("{0:?} is symmetric; use algorithms of public keys, such as ES256")]
    SymmetricAlgorithm(Algorithm),
    /// Two keys with this `kid` support the same algorithm.
    #[error("two keys have the kid {0:?}")]
    DuplicateKeyId(String),
    /// No key can verify signatures. Holds the reasons.
    #[error("the key set has no usable key{}", .0.iter().map(|key| format!("; {key}")).collect::<String>())]
    NoUsableKey(Vec<SkippedKey>),
}

/// Why the metadata of a provider is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    #[error("not a configured issuer")]
    IssuerUnknown,
    #[error("the issuer is configured without discovery = true")]
    NoDiscovery,
    /// The fetch failed; the log has the cause.
    #[error("the provider's discovery document could not be fetched")]
    Unavailable,
}

/// Why pushed keys are refused. The previous keys stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceError {
    #[error("not a configured issuer")]
    IssuerUnknown,
    /// The issuer's keys are fetched, so the next fetch would replace pushed ones.
    #[error("the issuer's keys are fetched; only those of a jwks_file can be pushed")]
    Fetched,
    #[error(transparent)]
    Unusable(IssuerProblem),
}
