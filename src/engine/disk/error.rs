//! Errors when opening the store, with their remedies.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::file::FileError;

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error(
        "{path} is damaged or not a store ({cause}); restore a copy, or move it away: the gateway then \
         starts with an empty store, and history is lost"
    )]
    Damaged { path: PathBuf, cause: String },
    /// Another version created the store.
    #[error("{path} has format {format}, which this version does not read")]
    Format { path: PathBuf, format: u64 },
}

impl DiskError {
    pub fn io(path: &Path, error: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), error }
    }

    pub fn file(path: &Path, error: FileError) -> Self {
        match error {
            FileError::InUse => Self::InUse(path.to_owned()),
            FileError::Io(error) => Self::io(path, error),
        }
    }

    pub fn database(path: &Path, error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::InUse(path.to_owned()),
            // With these kinds the library reports a file in another format.
            redb::Error::Io(error) if !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                Self::io(path, error)
            }
            error => Self::Damaged { path: path.to_owned(), cause: error.to_string() },
        }
    }

    /// Whether the configuration is wrong, and not the state of the machine.
    pub fn is_misconfigured(&self) -> bool {
        use ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
        match self {
            Self::Io { error, .. } => {
                matches!(error.kind(), IsADirectory | NotADirectory | NotFound | PermissionDenied)
            }
            Self::InUse(_) | Self::Damaged { .. } | Self::Format { .. } => false,
        }
    }
}
