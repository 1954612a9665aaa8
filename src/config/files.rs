//! Files that settings name: lookup and bounded reads.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The warning about a file with a secret that others may read.
pub const READABLE_SECRET: &str = "the file is readable by every user of this machine; chmod 600";

/// Finds the files that settings name and remembers them.
#[derive(Debug, Default)]
pub struct Files {
    /// The directory of the configuration file.
    config_directory: Option<PathBuf>,
    /// A change of one of these triggers a reload.
    pub watched: Vec<PathBuf>,
}

impl Files {
    pub fn new(config: Option<&Path>) -> Self {
        Self {
            config_directory: config.and_then(Path::parent).map(Path::to_owned),
            watched: config.map(Path::to_owned).into_iter().collect(),
        }
    }

    /// Resolves a path relative to the working directory or, if it does not exist there, to the configuration file's
    /// directory.
    pub fn locate(&mut self, name: &str) -> PathBuf {
        let given = PathBuf::from(name);
        let nearby = self.config_directory.as_ref().map(|directory| directory.join(name)).filter(|path| path.exists());
        let found = if given.exists() { given } else { nearby.unwrap_or(given) };
        if !self.watched.contains(&found) {
            self.watched.push(found.clone());
        }
        found
    }
}

/// Reads a file of at most 4 MiB. Errors do not contain the file's name.
pub fn read_text(path: &Path) -> Result<String, String> {
    let file = open(path)?;
    let mut text = String::new();
    match file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text) {
        Ok(read) if read as u64 > MAX_FILE_BYTES => Err("the file is larger than 4 MiB".to_owned()),
        Ok(_) => Ok(text),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// Opens a regular file for reading.
pub fn open(path: &Path) -> Result<File, String> {
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_dir() => Err("is a directory, not a file".to_owned()),
        _ => Ok(file),
    }
}

/// A container engine mounts secrets here for all users of the container, which are those of the gateway.
const CONTAINER_SECRETS: &str = "/run/secrets";

/// Whether every user of this machine may read a file with a secret.
pub fn is_world_readable(path: &Path) -> bool {
    !path.starts_with(CONTAINER_SECRETS) && mode_of(path).is_some_and(|mode| mode & 0o004 != 0)
}

/// Whether every user of this machine may change or replace the file.
pub fn is_world_writable(path: &Path) -> bool {
    // In a directory with the sticky bit only the owner may replace a file.
    let folder = path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    let is_open = |mode: u32| mode & 0o1002 == 0o002;
    mode_of(path).is_some_and(|mode| mode & 0o002 != 0) || folder.and_then(mode_of).is_some_and(is_open)
}

fn mode_of(path: &Path) -> Option<u32> {
    path.metadata().ok().map(|metadata| metadata.permissions().mode())
}
