//! The files that settings name: where they are looked for, and reading them with a bound.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Finds the files that settings name and remembers them.
#[derive(Debug, Default)]
pub struct Files {
    /// The directory of the configuration file.
    beside: Option<PathBuf>,
    /// Everything that a reload must look at.
    pub watched: Vec<PathBuf>,
}

impl Files {
    pub fn new(config: Option<&Path>) -> Self {
        Self {
            beside: config.and_then(Path::parent).map(Path::to_owned),
            watched: config.map(Path::to_owned).into_iter().collect(),
        }
    }

    /// Relative to the directory that the process runs in or, if it is not there, to the configuration file's.
    pub fn locate(&mut self, name: &str) -> PathBuf {
        let here = PathBuf::from(name);
        let there = self.beside.as_ref().map(|beside| beside.join(name)).filter(|there| there.exists());
        let found = if here.exists() { here } else { there.unwrap_or(here) };
        if !self.watched.contains(&found) {
            self.watched.push(found.clone());
        }
        found
    }
}

/// The text of a file of at most 4 MiB; the error is a sentence without the file's name.
pub fn read_text(path: &Path) -> Result<String, String> {
    let file = open(path)?;
    let mut text = String::new();
    match file.take(MAX_BYTES + 1).read_to_string(&mut text) {
        Ok(read) if read as u64 > MAX_BYTES => Err("the file is larger than 4 MiB".to_owned()),
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

/// Whether everybody on this machine may read the file.
pub fn is_world_readable(file: &File) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}
