//! The socket of a connection, as the broker uses it.

use std::io::{self, ErrorKind};

/// Writes to one client without blocking. A full socket returns [`ErrorKind::WouldBlock`].
pub trait Socket: Send + Sync + 'static {
    /// Returns how many bytes the socket accepted.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Several buffers in one system call.
    fn try_write_vectored(&self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize>;

    /// Sends bytes that the socket accepted but still buffers (TLS records).
    fn try_flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// Whether [`Socket::try_flush`] has bytes to send.
    fn has_unsent(&self) -> bool {
        false
    }
}

/// A socket that accepts nothing: all frames wait in the outbox until the connection's task takes them
/// ([`Connection::pop_frames`](super::Connection::pop_frames)).
pub struct BufferedSocket;

impl Socket for BufferedSocket {
    fn try_write(&self, _bytes: &[u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn try_write_vectored(&self, _buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}
