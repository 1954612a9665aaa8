//! The PROXY protocol, version 2, as a load balancer writes it before everything else on a connection.
//!
//! Reads the header's bytes and not one more, so that TLS or HTTP finds its first byte in place.
//! The text form (version 1) is refused: it has no length, so its end has to be guessed.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use ppp::v2::{Addresses, Command, Header, PROTOCOL_PREFIX, ParseError, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The signature, version and command, family and protocol, and the length of the rest.
const FIXED: usize = 16;
/// Bytes after the fixed part: addresses and the balancer's remarks (TLVs).
const MAX_REST: usize = 512;

/// Why a connection's first bytes are no PROXY header.
#[derive(Debug)]
pub enum ProxyError {
    /// Something else, such as a client that came past the balancer.
    NotProxy,
    /// The text form.
    Version1,
    /// The announced length.
    TooLong(usize),
    Malformed(ParseError),
    /// Addresses of datagrams on a stream.
    NotAStream,
    Io(io::Error),
}

/// The client's address according to the balancer; `None` if the connection is the balancer's own (LOCAL), or if it
/// names no IP address, and then the socket's peer counts.
///
/// Waits for as long as the peer stays silent: the caller has the deadline.
pub async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<SocketAddr>, ProxyError> {
    let mut header = [0; FIXED + MAX_REST];
    // The signature first: a client that speaks HTTP is refused without waiting for more.
    let (signature, rest) = header.split_at_mut(PROTOCOL_PREFIX.len());
    stream.read_exact(signature).await?;
    if signature != PROTOCOL_PREFIX {
        let is_text = signature.starts_with(b"PROXY ");
        return Err(if is_text { ProxyError::Version1 } else { ProxyError::NotProxy });
    }
    stream.read_exact(&mut rest[..FIXED - PROTOCOL_PREFIX.len()]).await?;
    let length = usize::from(u16::from_be_bytes([header[FIXED - 2], header[FIXED - 1]]));
    if length > MAX_REST {
        return Err(ProxyError::TooLong(length));
    }
    stream.read_exact(&mut header[FIXED..FIXED + length]).await?;
    parse(&header[..FIXED + length])
}

fn parse(header: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let header = Header::try_from(header).map_err(ProxyError::Malformed)?;
    if header.command == Command::Local {
        return Ok(None);
    }
    if header.protocol == Protocol::Datagram {
        return Err(ProxyError::NotAStream);
    }
    Ok(match header.addresses {
        Addresses::IPv4(ip) => Some((ip.source_address, ip.source_port).into()),
        Addresses::IPv6(ip) => Some((ip.source_address, ip.source_port).into()),
        Addresses::Unspecified | Addresses::Unix(_) => None,
    })
}

impl From<io::Error> for ProxyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotProxy => f.write_str("the connection does not begin with a PROXY header"),
            Self::Version1 => f.write_str("PROXY protocol version 1 is not accepted, only version 2"),
            Self::TooLong(length) => write!(f, "the PROXY header is too long ({length} bytes)"),
            Self::Malformed(error) => write!(f, "the PROXY header is malformed: {error}"),
            Self::NotAStream => f.write_str("the PROXY header speaks of datagrams"),
            Self::Io(error) => write!(f, "the PROXY header cannot be read: {error}"),
        }
    }
}

impl std::error::Error for ProxyError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [PROTOCOL_PREFIX, &[command, family], &length, rest].concat()
    }

    fn ipv4() -> Vec<u8> {
        vec![203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x34, 0, 80]
    }

    /// The verdict over `bytes`, and what is left unread.
    fn read(bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyError>, Vec<u8>) {
        let mut stream = bytes;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let verdict = runtime.block_on(read_header(&mut stream));
        (verdict, stream.to_vec())
    }

    #[test]
    fn t_x1_the_header_names_the_client_and_not_one_byte_more_is_read() {
        let (verdict, rest) = read(&[header(0x21, 0x11, &ipv4()), b"GET / HTTP/1.1".to_vec()].concat());
        assert_eq!(verdict.unwrap(), Some("203.0.113.9:4660".parse().unwrap()));
        assert_eq!(rest, b"GET / HTTP/1.1");
    }

    #[test]
    fn t_x1_remarks_of_the_balancer_are_skipped() {
        let with_remarks = [ipv4(), vec![0x04, 0, 3, 1, 2, 3], vec![0x20, 0xff, 0xff]].concat();
        let (verdict, rest) = read(&[header(0x21, 0x11, &with_remarks), b"x".to_vec()].concat());
        assert_eq!(verdict.unwrap(), Some("203.0.113.9:4660".parse().unwrap()));
        assert_eq!(rest, b"x");
    }

    #[test]
    fn t_x2_ipv4_inside_ipv6_is_the_same_client() {
        let mut rest = [0; 36];
        rest[10..16].copy_from_slice(&[0xff, 0xff, 203, 0, 113, 9]);
        let address = read(&header(0x21, 0x21, &rest)).0.unwrap().unwrap();
        let client = crate::auth::ClientAddr::from(address.ip());
        assert_eq!(client.to_string(), "203.0.113.9");
    }

    #[test]
    fn t_x1_a_connection_of_the_balancer_itself_keeps_its_own_address() {
        assert_eq!(read(&header(0x20, 0x00, &[])).0.unwrap(), None);
        assert_eq!(read(&header(0x20, 0x11, &ipv4())).0.unwrap(), None);
        assert_eq!(read(&header(0x21, 0x00, &[])).0.unwrap(), None);
        assert_eq!(read(&header(0x21, 0x31, &[b'/'; 216])).0.unwrap(), None);
    }

    #[test]
    fn t_x1_everything_else_is_refused() {
        let verdict = |bytes: &[u8]| read(bytes).0.unwrap_err();
        assert!(matches!(verdict(b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n"), ProxyError::Version1));
        assert!(matches!(verdict(b"GET / HTTP/1.1\r\n\r\n"), ProxyError::NotProxy));
        assert!(matches!(verdict(&header(0x21, 0x11, &[0; 513])), ProxyError::TooLong(513)));
        assert!(matches!(verdict(&header(0x21, 0x12, &ipv4())), ProxyError::NotAStream));
        for (command, family) in [(0x11, 0x11), (0x22, 0x11), (0x21, 0x41), (0x21, 0x13)] {
            assert!(matches!(verdict(&header(command, family, &ipv4())), ProxyError::Malformed(_)));
        }
        // Shorter than its family needs.
        assert!(matches!(verdict(&header(0x21, 0x21, &ipv4())), ProxyError::Malformed(_)));
        let whole = header(0x21, 0x11, &ipv4());
        for end in 0..whole.len() {
            assert!(matches!(verdict(&whole[..end]), ProxyError::Io(_)), "{end}");
        }
    }

    #[tokio::test]
    async fn t_x1_a_header_that_comes_byte_by_byte_over_tcp_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let writer = tokio::spawn(async move {
            for byte in [header(0x21, 0x11, &ipv4()), b"hello".to_vec()].concat() {
                client.write_all(&[byte]).await.unwrap();
            }
        });
        assert_eq!(read_header(&mut server).await.unwrap(), Some("203.0.113.9:4660".parse().unwrap()));
        writer.await.unwrap();
        let mut rest = [0; 5];
        server.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"hello");
    }

    proptest! {
        #[test]
        fn t_x1_no_bytes_make_it_panic(
            is_signed: bool, bytes in proptest::collection::vec(any::<u8>(), 0..600), length in 0u16..600,
        ) {
            let mut all = if is_signed { PROTOCOL_PREFIX.to_vec() } else { Vec::new() };
            all.extend(bytes);
            if is_signed && all.len() > FIXED {
                all[14..16].copy_from_slice(&length.to_be_bytes());
            }
            let _ = read(&all);
        }
    }
}
