//! The file of the store: locked by this process, readable only by its owner, bounded in size.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind};
use std::ops::Bound;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redb::{BackendError, StorageBackend};

/// Whether acknowledged publications survive a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Yes: every commit waits for an fsync.
    Always,
    /// No, only a crash of the process. After a power loss the file may be damaged.
    Never,
}

/// A locked file of the store. Clones share the file.
#[derive(Clone)]
pub struct StoreFile(Arc<OpenFile>);

struct OpenFile {
    file: File,
    fsync: Fsync,
    max_bytes: u64,
    len: AtomicU64,
    fsync_failed: AtomicBool,
}

/// Why the file cannot be opened.
#[derive(Debug)]
pub enum FileError {
    /// Another process has locked it.
    InUse,
    Io(Error),
}

impl StoreFile {
    /// Opens and locks a file. If `is_new`, creates or empties it.
    pub fn open(path: &Path, is_new: bool, fsync: Fsync, max_bytes: u64) -> Result<Self, FileError> {
        let file = OpenOptions::new().read(true).write(true).create(is_new).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FileError::InUse),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        file.set_permissions(PermissionsExt::from_mode(0o600))?;
        if is_new {
            // The file is left over from an interrupted start.
            file.set_len(0)?;
        }
        let len = file.metadata()?.len().into();
        Ok(Self(Arc::new(OpenFile { file, fsync, max_bytes, len, fsync_failed: AtomicBool::new(false) })))
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.0.len.load(Ordering::Relaxed)
    }

    /// After a failed fsync, the file's content in memory may differ from the disk.
    pub fn has_failed_fsync(&self) -> bool {
        self.0.fsync_failed.load(Ordering::Relaxed)
    }

    /// Renames the file, durably with [`Fsync::Always`].
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        std::fs::rename(from, to)?;
        if self.0.fsync == Fsync::Always {
            File::open(folder(to))?.sync_all()?;
        }
        Ok(())
    }
}

/// The directory of a file.
pub fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

impl StorageBackend for StoreFile {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.0.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.0.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        if len > self.0.max_bytes && len > self.len() {
            return Err(Error::new(ErrorKind::StorageFull, "the file would be larger than engine.max_bytes"));
        }
        self.0.file.set_len(len)?;
        self.0.len.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        if self.0.fsync == Fsync::Never {
            return Ok(());
        }
        let result = self.0.file.sync_data();
        if result.is_err() {
            self.0.fsync_failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.0.file.write_all_at(data, offset)
    }

    // The whole file is locked while it is open.
    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}

impl fmt::Debug for StoreFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreFile")
    }
}

impl From<Error> for FileError {
    fn from(error: Error) -> Self {
        Self::Io(error)
    }
}
