//! The file of `serve --ready-file`: URL of each listener, present while the gateway serves.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::failure::Failure;
use crate::gateway::Gateway;
use crate::transport::config::{Address, ListenerConfig};

pub struct ReadyFile {
    path: PathBuf,
    /// Beside `path`, because a rename is atomic within one file system only.
    temporary: PathBuf,
    file: File,
}

impl ReadyFile {
    /// Creates the temporary file, so that an unusable path is an error before a port is bound. Removes a file that an
    /// earlier process left behind.
    pub fn create(path: PathBuf) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::usage(format!("--ready-file {}: {error}", path.display()));
        let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
            return Err(failed(ErrorKind::IsADirectory.into()));
        };
        let temporary = path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        remove(&temporary).map_err(failed)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
        let ready_file = Self { path: path.clone(), temporary, file };
        remove(&path).map_err(failed)?;
        Ok(ready_file)
    }

    /// Puts the complete file in its place.
    pub fn publish(&mut self, urls: &BTreeMap<String, String>) -> Result<(), Failure> {
        let written = serde_json::to_string(urls).map_err(io::Error::from).and_then(|json| {
            self.file.write_all(format!("{json}\n").as_bytes())?;
            fs::rename(&self.temporary, &self.path)
        });
        written.map_err(|error| Failure::failed(format!("--ready-file {}: {error}", self.path.display())))
    }

    /// False if another process replaced the file. The open file keeps its inode from being used again.
    fn is_own(&self, path: &Path) -> bool {
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let found = fs::symlink_metadata(path).map(id);
        found.is_ok_and(|found| self.file.metadata().is_ok_and(|own| id(own) == found))
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        for path in [&self.path, &self.temporary] {
            if self.is_own(path) {
                // The process ends; a file that cannot be removed is replaced by the next start.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Returns the URL of each listener by the listener's name.
pub fn listener_urls(gateway: &Gateway) -> BTreeMap<String, String> {
    gateway.listeners().map(|(listener, address)| (listener.name.clone(), url_of(listener, &address))).collect()
}

fn url_of(listener: &ListenerConfig, address: &Address) -> String {
    match address {
        Address::Tcp(address) if listener.tls.is_some() => format!("https://{address}"),
        Address::Tcp(address) => format!("http://{address}"),
        Address::Unix(_) => address.to_string(),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
