//! Errors when opening the store, with their remedies.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::file::FileError;

#[derive(Debug)]
pub enum DiskError {
    InUse(PathBuf),
    Io {
        path: PathBuf,
        error: std::io::Error,
    },
    Damaged {
        path: PathBuf,
        cause: String,
    },
    /// Another version created the store.
    Format {
        path: PathBuf,
        format: u64,
    },
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

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("engine.path: ")?;
        match self {
            Self::InUse(path) => write!(f, "{} is in use by another process", path.display()),
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Damaged { path, cause } => write!(
                f,
                "{} is damaged or not a store ({cause}); restore a copy, or move it away: the gateway then starts with an \
                 empty store, and history is lost",
                path.display()
            ),
            Self::Format { path, format } => {
                write!(f, "{} has format {format}, which this version does not read", path.display())
            }
        }
    }
}

impl std::error::Error for DiskError {}
