//! The socket of a WebSocket, without a buffer of its own: TCP, Unix, TLS over TCP.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use rustls::ServerConnection;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use crate::broker::Socket;

/// Bytes that one TLS session may hold encrypted but unsent.
const MAX_TLS_UNSENT_BYTES: usize = 64 * 1024;

pub enum RawSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsSocket>),
}

pub struct TlsSocket {
    tcp: TcpStream,
    session: Mutex<ServerConnection>,
}

impl RawSocket {
    pub fn tls(tcp: TcpStream, mut session: ServerConnection) -> Self {
        session.set_buffer_limit(Some(MAX_TLS_UNSENT_BYTES));
        Self::Tls(Box::new(TlsSocket { tcp, session: Mutex::new(session) }))
    }

    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx),
            Self::Unix(unix) => unix.poll_read_ready(cx),
            Self::Tls(tls) => tls.tcp.poll_read_ready(cx),
        }
    }

    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_write_ready(cx),
            Self::Unix(unix) => unix.poll_write_ready(cx),
            Self::Tls(tls) => tls.tcp.poll_write_ready(cx),
        }
    }

    /// Reads the available bytes; `Ok(0)` at the end of the stream.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => try_read(tcp, buffer),
            Self::Unix(unix) => unix.try_read(buffer),
            Self::Tls(tls) => tls.try_read(buffer),
        }
    }

    /// Closes the sending side, as far as that is possible without waiting.
    pub fn finish(&self) {
        // The connection ends either way.
        let _ = match self {
            Self::Tcp(tcp) => SockRef::from(tcp).shutdown(Shutdown::Write),
            Self::Unix(unix) => SockRef::from(unix).shutdown(Shutdown::Write),
            Self::Tls(tls) => {
                tls.session.lock().send_close_notify();
                self.try_flush().and_then(|()| SockRef::from(&tls.tcp).shutdown(Shutdown::Write))
            }
        };
    }
}

impl Socket for RawSocket {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_write(bytes),
            Self::Unix(unix) => unix.try_write(bytes),
            Self::Tls(tls) => tls.try_write_vectored(&[IoSlice::new(bytes)]),
        }
    }

    fn try_write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_write_vectored(buffers),
            Self::Unix(unix) => unix.try_write_vectored(buffers),
            Self::Tls(tls) => tls.try_write_vectored(buffers),
        }
    }

    fn try_flush(&self) -> io::Result<()> {
        match self {
            Self::Tls(tls) => tls.send_records(&mut tls.session.lock()),
            _ => Ok(()),
        }
    }

    fn has_unsent(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.session.lock().wants_write())
    }
}

impl TlsSocket {
    /// Writes all buffers into as few TLS records as possible.
    fn try_write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut session = self.session.lock();
        // Nothing is encrypted while older records are unsent, so a full socket fills the outbox and not the session.
        self.send_records(&mut session)?;
        let written = session.writer().write_vectored(buffers)?;
        match self.send_records(&mut session) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(written),
        }
    }

    fn send_records(&self, session: &mut ServerConnection) -> io::Result<()> {
        while session.wants_write() {
            session.write_tls(&mut Nonblocking(&self.tcp))?;
        }
        Ok(())
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut session = self.session.lock();
        loop {
            match session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            if session.read_tls(&mut Nonblocking(&self.tcp))? == 0 {
                return Ok(0);
            }
            session.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
    }
}

/// Reads the available bytes in one system call. A short read has emptied the socket: tokio gets `WouldBlock` and waits
/// for the next event instead of allowing a second read in vain.
fn try_read(tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut short = None;
    let read = tcp.try_io(Interest::READABLE, || {
        let read = (&*SockRef::from(tcp)).read(buffer)?;
        if (1..buffer.len()).contains(&read) {
            short = Some(read);
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(read)
    });
    short.map_or(read, Ok)
}

/// `Read` and `Write` on a socket that return [`ErrorKind::WouldBlock`] instead of waiting.
struct Nonblocking<'a>(&'a TcpStream);

impl Read for Nonblocking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        try_read(self.0, buffer)
    }
}

impl Write for Nonblocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig, SideData};
    use tokio::net::TcpListener;

    use super::*;

    /// The TLS sessions of both sides after the handshake.
    fn sessions() -> (ServerConnection, ClientConnection) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let server = server.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let client = client.with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        while client.wants_write() || server.wants_write() {
            pass(&mut client, &mut server);
            pass(&mut server, &mut client);
        }
        (server, client)
    }

    fn pass<A: SideData, B: SideData>(from: &mut ConnectionCommon<A>, to: &mut ConnectionCommon<B>) {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            to.read_tls(&mut rest).unwrap();
            to.process_new_packets().unwrap();
        }
    }

    #[tokio::test]
    async fn one_write_is_one_tls_record() {
        let (server, mut client) = sessions();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = RawSocket::tls(listener.accept().await.unwrap().0, server);
        std::future::poll_fn(|cx| socket.poll_write_ready(cx)).await.unwrap();
        let frames = [&b"welcome"[..], b"subscribed", b"message"];
        let buffers = frames.map(IoSlice::new);
        assert_eq!(socket.try_write_vectored(&buffers).unwrap(), frames.concat().len());
        socket.finish();

        let mut bytes = Vec::new();
        peer.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        peer.read_to_end(&mut bytes).unwrap();
        // RFC 8446 section 5.1: type, version, and the length of the rest.
        let (mut at, mut records) = (0, 0);
        while at < bytes.len() {
            at += 5 + usize::from(u16::from_be_bytes([bytes[at + 3], bytes[at + 4]]));
            records += 1;
        }
        assert_eq!(records, 2, "one, and the close_notify alert");
        client.read_tls(&mut &bytes[..]).unwrap();
        client.process_new_packets().unwrap();
        let mut read = Vec::new();
        client.reader().read_to_end(&mut read).unwrap();
        assert_eq!(read, frames.concat());
    }
}
