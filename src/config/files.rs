//! Files that settings name: lookup and bounded reads.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

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

/// Whether every user of this machine may read the file.
pub fn is_world_readable(file: &File) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}
