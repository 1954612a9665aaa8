//! The PROXY protocol header (versions 1 and 2), which a load balancer sends first on a connection.
//!
//! Exactly the header's bytes are read, so that TLS or HTTP starts at its first byte.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::v1;
use ppp::v2::{Addresses, Command, Header, PROTOCOL_PREFIX, ParseError, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The signature, version and command, family and protocol, and the length of the rest.
const FIXED_BYTES: usize = 16;
/// The variable part: addresses and extensions (TLVs).
const MAX_VARIABLE_BYTES: usize = 512;

/// The longest line of version 1, as its specification states it.
const MAX_LINE_BYTES: usize = 107;

/// A refused PROXY header.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Other bytes, such as those of a client that bypassed the balancer.
    #[error("the connection does not begin with a PROXY header")]
    NotProxy,
    #[error("the peer{} is not in trusted_proxies", .0.map(|peer| format!(" {peer}")).unwrap_or_default())]
    PeerNotTrusted(Option<IpAddr>),
    /// The text form of the header.
    #[error("the PROXY header is malformed: {0}")]
    MalformedLine(v1::BinaryParseError),
    /// The announced length.
    #[error("the PROXY header is too long ({0} bytes)")]
    TooLong(usize),
    #[error("the PROXY header is malformed: {0}")]
    Malformed(ParseError),
    #[error("the PROXY header has datagram addresses")]
    NotAStream,
    #[error("the PROXY header cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Reads the client's address as the balancer reports it. `None` if the connection is the balancer's own (LOCAL) or
/// the header has no IP address: the address of the socket's peer is used then.
///
/// Has no timeout: the caller sets the deadline.
pub async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<SocketAddr>, ProxyError> {
    let mut header = [0; FIXED_BYTES + MAX_VARIABLE_BYTES];
    // The signature first, so that an HTTP client is refused without waiting for more bytes.
    let (signature, rest) = header.split_at_mut(PROTOCOL_PREFIX.len());
    stream.read_exact(signature).await?;
    if signature != PROTOCOL_PREFIX {
        let is_text = signature.starts_with(b"PROXY ");
        return if is_text { read_line(stream, signature).await } else { Err(ProxyError::NotProxy) };
    }
    stream.read_exact(&mut rest[..FIXED_BYTES - PROTOCOL_PREFIX.len()]).await?;
    let length = usize::from(u16::from_be_bytes([header[FIXED_BYTES - 2], header[FIXED_BYTES - 1]]));
    if length > MAX_VARIABLE_BYTES {
        return Err(ProxyError::TooLong(length));
    }
    stream.read_exact(&mut header[FIXED_BYTES..FIXED_BYTES + length]).await?;
    parse(&header[..FIXED_BYTES + length])
}

/// Reads the rest of a header of version 1. It has no length, so each byte may be the last one.
async fn read_line<S: AsyncRead + Unpin>(stream: &mut S, start: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == MAX_LINE_BYTES {
            return Err(ProxyError::TooLong(MAX_LINE_BYTES));
        }
        line.push(stream.read_u8().await?);
    }
    let header = v1::Header::try_from(&line[..]).map_err(ProxyError::MalformedLine)?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Unknown => None,
    })
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

    /// The result for `bytes`, and the unread rest.
    fn read(bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyError>, Vec<u8>) {
        let mut stream = bytes;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let result = runtime.block_on(read_header(&mut stream));
        (result, stream.to_vec())
    }

    #[test]
    fn header_names_client_and_leaves_rest() {
        let (result, rest) = read(&[header(0x21, 0x11, &ipv4()), b"GET / HTTP/1.1".to_vec()].concat());
        assert_eq!(result.unwrap(), Some("203.0.113.9:4660".parse().unwrap()));
        assert_eq!(rest, b"GET / HTTP/1.1");
    }

    #[test]
    fn line_of_version_1_names_client() {
        for (line, client) in [
            ("PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\r\n", Some("203.0.113.9:4660")),
            ("PROXY TCP6 2001:db8::9 2001:db8::1 4660 80\r\n", Some("[2001:db8::9]:4660")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
        ] {
            let (result, rest) = read(format!("{line}GET / HTTP/1.1").as_bytes());
            assert_eq!(result.unwrap(), client.map(|client| client.parse().unwrap()), "{line:?}");
            assert_eq!(rest, b"GET / HTTP/1.1");
        }
    }

    #[test]
    fn extensions_are_skipped() {
        let with_extensions = [ipv4(), vec![0x04, 0, 3, 1, 2, 3], vec![0x20, 0xff, 0xff]].concat();
        let (result, rest) = read(&[header(0x21, 0x11, &with_extensions), b"x".to_vec()].concat());
        assert_eq!(result.unwrap(), Some("203.0.113.9:4660".parse().unwrap()));
        assert_eq!(rest, b"x");
    }

    #[test]
    fn mapped_ipv4_is_same_client() {
        let mut rest = [0; 36];
        rest[10..16].copy_from_slice(&[0xff, 0xff, 203, 0, 113, 9]);
        let address = read(&header(0x21, 0x21, &rest)).0.unwrap().unwrap();
        let client = crate::auth::ClientAddr::from(address.ip());
        assert_eq!(client.to_string(), "203.0.113.9");
    }

    #[test]
    fn local_connection_has_no_client() {
        assert_eq!(read(&header(0x20, 0x00, &[])).0.unwrap(), None);
        assert_eq!(read(&header(0x20, 0x11, &ipv4())).0.unwrap(), None);
        assert_eq!(read(&header(0x21, 0x00, &[])).0.unwrap(), None);
        assert_eq!(read(&header(0x21, 0x31, &[b'/'; 216])).0.unwrap(), None);
    }

    #[test]
    fn other_bytes_are_refused() {
        let result = |bytes: &[u8]| read(bytes).0.unwrap_err();
        for line in [
            "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 70000\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY \u{e9}\u{e9}\u{e9}\u{e9}\r\n",
        ] {
            assert!(matches!(result(line.as_bytes()), ProxyError::MalformedLine(_)), "{line:?}");
        }
        let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200], b"\r\n".to_vec()].concat();
        assert!(matches!(result(&endless), ProxyError::TooLong(_)));
        assert!(matches!(result(b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n"), ProxyError::Io(_)));
        assert!(matches!(result(b"GET / HTTP/1.1\r\n\r\n"), ProxyError::NotProxy));
        assert!(matches!(result(&header(0x21, 0x11, &[0; 513])), ProxyError::TooLong(513)));
        assert!(matches!(result(&header(0x21, 0x12, &ipv4())), ProxyError::NotAStream));
        for (command, family) in [(0x11, 0x11), (0x22, 0x11), (0x21, 0x41), (0x21, 0x13)] {
            assert!(matches!(result(&header(command, family, &ipv4())), ProxyError::Malformed(_)));
        }
        // Shorter than the address family needs.
        assert!(matches!(result(&header(0x21, 0x21, &ipv4())), ProxyError::Malformed(_)));
        let complete = header(0x21, 0x11, &ipv4());
        for end in 0..complete.len() {
            assert!(matches!(result(&complete[..end]), ProxyError::Io(_)), "{end}");
        }
    }

    #[tokio::test]
    async fn header_in_single_bytes_is_read() {
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
        fn arbitrary_bytes_do_not_panic(
            is_signed: bool, bytes in proptest::collection::vec(any::<u8>(), 0..600), length in 0u16..600,
        ) {
            let mut all = if is_signed { PROTOCOL_PREFIX.to_vec() } else { Vec::new() };
            all.extend(bytes);
            if is_signed && all.len() > FIXED_BYTES {
                all[14..16].copy_from_slice(&length.to_be_bytes());
            }
            let _ = read(&all);
        }
    }
}
