//! The file of a Unix socket: takes the place of a dead socket only, has its mode before clients connect, and is removed
//! at the end.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

use crate::transport::config::SocketFileConfig;

/// A listening socket with its file.
pub struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: another process may have replaced the file.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    pub fn bind(path: &Path, config: &SocketFileConfig, backlog: i32) -> io::Result<Self> {
        remove_dead_socket(path)?;
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&socket2::SockAddr::unix(path)?)?;
        let identity = identity_of(path);
        let bound = Self::restrict(path, config).and_then(|()| socket.listen(backlog));
        let listener = bound.and_then(|()| UnixListener::from_std(socket.into()));
        match listener {
            Ok(listener) => Ok(Self { listener, path: path.to_owned(), identity }),
            Err(error) => {
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    /// Before the socket listens, so that no client is earlier.
    fn restrict(path: &Path, config: &SocketFileConfig) -> io::Result<()> {
        if let Some(group) = config.group {
            chown(path, None, Some(group))?;
        }
        match config.mode {
            Some(mode) => fs::set_permissions(path, Permissions::from_mode(mode)),
            None => Ok(()),
        }
    }

    pub async fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        self.listener.accept().await
    }
}

impl Drop for SocketFile {
    /// The file would outlive the socket.
    fn drop(&mut self) {
        if self.identity.is_some() && self.identity == identity_of(&self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket on which no process listens. Anything else at the path is an error.
fn remove_dead_socket(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
