//! TLS: certificates that change or do not fit, handshakes that are none, and WebSockets over it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use test_support::{TEST_TIMEOUT, TempDir, with_timeout};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::node::{Node, Setup, command};
use crate::raw::{connect, read_reply, read_to_end, send};
use crate::ws::{RawWs, command as ws_command, offset_of, text, upgrade};

const FILES: &str = r#"tls = { certificate = "gateway.crt", key = "gateway.key" }"#;

/// A certificate for `localhost` with its key, and a client that trusts nothing else.
pub struct Certified {
    certificate: String,
    key: String,
    der: CertificateDer<'static>,
    client: Arc<ClientConfig>,
}

impl Certified {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let der = made.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut client = client.with_root_certificates(roots).with_no_client_auth();
        // A session that is resumed shows no certificate.
        client.resumption = Resumption::disabled();
        Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), der, client: Arc::new(client) }
    }

    fn write(&self, folder: &TempDir) {
        folder.write("gateway.crt", &self.certificate);
        folder.write("gateway.key", &self.key);
    }

    /// A gateway whose public listener has this certificate.
    pub async fn node(&self, setup: Setup<'_>) -> Node {
        let folder = TempDir::new();
        self.write(&folder);
        Node::start_in(folder, Setup { public: FILES, ..setup }).await
    }

    pub async fn connect(&self, node: &Node) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        let tcp = connect(node.public()).await;
        with_timeout("a handshake", TlsConnector::from(self.client.clone()).connect(name, tcp)).await
    }

    /// A connection to any listener with the protocol that it chooses of those offered.
    pub async fn connect_to(&self, address: SocketAddr, offered: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut client = (*self.client).clone();
        client.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        let tcp = crate::raw::connect(address).await;
        with_timeout("a handshake", TlsConnector::from(Arc::new(client)).connect(name, tcp)).await
    }

    pub async fn subscriber(&self, node: &Node, channel: &str) -> RawWs<TlsStream<TcpStream>> {
        let stream = self.connect(node).await.expect("a handshake");
        let mut ws = RawWs::over(stream, &upgrade("/v1/subscribe", "localhost", "")).await.expect("an upgrade");
        ws.hello().await;
        ws.subscribe(channel).await;
        ws
    }

    /// The first bytes of a handshake.
    pub fn client_hello(&self) -> Vec<u8> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut hello = Vec::new();
        ClientConnection::new(self.client.clone(), name).unwrap().write_tls(&mut hello).unwrap();
        hello
    }
}

#[tokio::test]
async fn new_certificate_applies_to_new_handshakes() {
    let (old, new) = (Certified::new(), Certified::new());
    let node = old.node(Setup::default()).await;
    let mut held = old.subscriber(&node, "open.a").await;
    new.write(&node.folder);
    node.signal("HUP");
    test_support::eventually("the new certificate", async || new.connect(&node).await.ok()).await;
    assert!(old.connect(&node).await.is_err(), "the old certificate is gone");
    node.publish("open.a", "1").await;
    assert_eq!(held.json().await["offset"], 1);
    held.is_alive().await;
    let mut fresh = new.subscriber(&node, "open.a").await;
    assert_eq!(fresh.stream.get_ref().1.peer_certificates().unwrap(), std::slice::from_ref(&new.der));
    fresh.is_alive().await;
    assert!(node.metric("lastmile_reloads_total").await >= 1.0);
}

#[tokio::test]
async fn mismatched_key_is_not_loaded() {
    let (old, other) = (Certified::new(), Certified::new());
    let node = old.node(Setup::default()).await;
    node.folder.write("gateway.key", &other.key);
    node.signal("HUP");
    test_support::eventually("the refusal", async || {
        (node.metric("lastmile_reload_failures_total").await >= 1.0).then_some(())
    })
    .await;
    old.subscriber(&node, "open.a").await.is_alive().await;
    assert_eq!(node.metric("lastmile_reloads_total").await, 0.0);
    // Rubbish is no certificate either.
    node.folder.write("gateway.crt", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    node.signal("HUP");
    test_support::eventually("the refusal", async || {
        (node.metric("lastmile_reload_failures_total").await >= 2.0).then_some(())
    })
    .await;
    old.subscriber(&node, "open.a").await.is_alive().await;
}

#[tokio::test]
async fn unusable_certificate_fails_before_binding() {
    let (one, other) = (Certified::new(), Certified::new());
    // The port is in use: an attempt to bind it would fail with another message.
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    for (certificate, key, named) in [
        (one.certificate.as_str(), other.key.as_str(), "gateway.key"),
        ("rubbish", &one.key, "gateway.crt"),
        ("", &one.key, "gateway.crt"),
        (&one.certificate, "rubbish", "gateway.key"),
        (&one.key, &one.certificate, "gateway."),
    ] {
        let folder = TempDir::new();
        folder.write("gateway.crt", certificate);
        folder.write("gateway.key", key);
        folder.write(
            "lastmile.toml",
            &format!(
                "[listeners.a]\naddress = \"{address}\"\nroles = [\"ops\"]\n[listeners.b]\n\
                      address = \"127.0.0.1:0\"\nroles = [\"subscribe\"]\n{FILES}\n"
            ),
        );
        let output = command(&folder).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{errors}");
        assert!(errors.contains("listeners.b.tls") && errors.contains(named), "{errors}");
        assert!(!errors.contains("listeners.a"), "{errors}");
        let secret = one.key.lines().nth(1).unwrap();
        assert!(!errors.contains(secret), "the key is in the message");
    }
}

#[tokio::test]
async fn non_handshake_ends_by_deadline() {
    let certified = Certified::new();
    let node = certified.node(Setup { limits: "handshake_secs = 3", ..Setup::default() }).await;
    let hello = certified.client_hello();
    let mut broken = hello.clone();
    broken[40] ^= 0xff;
    broken[3] = 0xff;
    let cases: [(&str, Vec<u8>); 12] = [
        ("nothing", Vec::new()),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec()),
        ("zeros", vec![0; 100_000]),
        ("ones", vec![0xff; 100_000]),
        ("SSL 2", b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10".to_vec()),
        ("half a record", hello[..hello.len() / 2].to_vec()),
        ("one byte", hello[..1].to_vec()),
        ("a broken record", broken),
        ("twice the same", [&hello[..], &hello].concat()),
        ("an alert", b"\x15\x03\x03\0\x02\x02\x28".to_vec()),
        ("a warning again and again", b"\x15\x03\x03\0\x02\x01\x5a".repeat(20_000)),
        ("empty records", b"\x16\x03\x01\0\0".repeat(20_000)),
    ];
    for (what, bytes) in cases {
        let mut stream = connect(node.public()).await;
        let begun = Instant::now();
        send(&mut stream, &bytes).await;
        assert!(read_to_end(&mut stream, TEST_TIMEOUT).await.is_some(), "{what}: still open");
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
    }
    // Behind a handshake there are deadlines too.
    let mut silent = certified.connect(&node).await.unwrap();
    assert!(read_to_end(&mut silent, TEST_TIMEOUT).await.is_some(), "still open");
    let mut slow = certified.connect(&node).await.unwrap();
    send(&mut slow, b"GET / HTTP/1.1\r\nhost: localh").await;
    assert!(read_to_end(&mut slow, TEST_TIMEOUT).await.is_some(), "still open");
    certified.subscriber(&node, "open.a").await.is_alive().await;
    node.await_metric("lastmile_sockets", 1.0).await;
}

#[tokio::test]
async fn tls_answers_send_hsts() {
    let certified = Certified::new();
    let node = certified.node(Setup::default()).await;
    let mut stream = certified.connect(&node).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    send(&mut stream, b"GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let reply = read_reply(&mut stream).await.unwrap();
    assert_eq!((reply.status, reply.header("strict-transport-security")), (404, Some("max-age=31536000")));
}

#[tokio::test]
async fn frames_in_upgrade_record_are_kept() {
    let certified = Certified::new();
    let node = certified.node(Setup::default()).await;
    let subscribe = ws_command(serde_json::json!({"type": "subscribe", "id": "1", "channel": "open.early"}));
    let early = [upgrade("/v1/subscribe", "localhost", ""), text(r#"{"type":"hello"}"#), subscribe].concat();
    for _ in 0..10 {
        let stream = certified.connect(&node).await.unwrap();
        let mut ws = RawWs::over(stream, &early).await.unwrap();
        assert_eq!(ws.json().await["type"], "welcome");
        assert_eq!(ws.json().await["type"], "subscribed");
        ws.is_alive().await;
    }
}

#[tokio::test]
async fn lagging_tls_subscriber_catches_up() {
    let certified = Certified::new();
    let limits = "outbox_bytes = 100000000\noutbox_stall_secs = 300\nclose_secs = 60";
    let more = "[channel_defaults]\nmax_message_bytes = 400000";
    let node = certified.node(Setup { limits, more, ..Setup::default() }).await;
    let mut lagging = certified.subscriber(&node, "open.burst").await;
    let mut publisher = node.publisher_ws().await;
    // Sizes around those of TLS records and of the gateway's own buffers.
    let sizes = [1, 100, 16_000, 16_384, 16_385, 65_000, 65_536, 65_537, 131_072, 300_000];
    let total = 20 * sizes.len() as u64;
    let sending = async |publisher: &mut RawWs, from: u64| {
        for (size, offset) in sizes.iter().zip(from..) {
            let data = "x".repeat(*size);
            publisher.send(&text(&format!(r#"{{"type":"publish","channel":"open.burst","data":"{data}"}}"#))).await;
            assert_eq!(offset_of(&publisher.text().await.expect("an answer")), offset);
        }
    };
    // Nothing is read while half of it is published, and then slowly.
    for round in 0..10 {
        sending(&mut publisher, round * sizes.len() as u64 + 1).await;
    }
    let reading = async {
        for offset in 1..=total {
            let message = lagging.text().await.expect("a message");
            assert_eq!(offset_of(&message), offset);
            let size = sizes[(offset - 1) as usize % sizes.len()];
            assert!(message.ends_with(&format!("\"{}\"}}", "x".repeat(size))), "offset {offset}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let publishing = async {
        for round in 10..20 {
            sending(&mut publisher, round * sizes.len() as u64 + 1).await;
        }
    };
    tokio::join!(reading, publishing);
    lagging.is_alive().await;
}

#[tokio::test]
async fn certificate_names_own_origin() {
    let certified = Certified::new();
    let folder = TempDir::new();
    let made =
        rcgen::generate_simple_self_signed(["live.example.com".to_owned(), "*.in.example.com".to_owned()]).unwrap();
    folder.write("gateway.crt", &made.cert.pem());
    folder.write("gateway.key", &made.signing_key.serialize_pem());
    let node = Node::start_in(folder, Setup { public: FILES, ..Setup::default() }).await;
    let mut client = (*certified.client).clone();
    client.dangerous().set_certificate_verifier(Arc::new(AnyCertificate));
    let verdict = async |host: &str| {
        let name = ServerName::try_from("localhost").unwrap();
        let tcp = connect(node.public()).await;
        let connecting = TlsConnector::from(Arc::new(client.clone())).connect(name, tcp);
        let mut stream = with_timeout("a handshake", connecting).await.unwrap();
        let headers = format!("origin: https://{host}\r\n");
        send(&mut stream, &upgrade("/v1/subscribe", host, &headers)).await;
        read_reply(&mut stream).await.expect("a reply").status
    };
    for own in ["live.example.com", "LIVE.example.com", "live.example.com:8443", "a.in.example.com", "localhost"] {
        assert_eq!(verdict(own).await, 101, "{own}");
    }
    for other in ["rebind.evil", "example.com", "a.b.in.example.com", "in.example.com", "live.example.com.evil"] {
        assert_eq!(verdict(other).await, 403, "{other}");
    }
}

/// The test asks for names, not for trust.
#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
