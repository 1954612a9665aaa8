//! Checked configuration: listeners, transport limits and rooms.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::broker::room::RoomLimits;
use crate::broker::{ConnectionLimits, RateLimit};
use crate::protocol::Pattern;

/// A group of endpoints that a listener serves; those of other roles answer 404.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Subscribe,
    Publish,
    Ops,
    Pair,
    Login,
    Tslm,
    Flock,
    FlockPublish,
    Relay,
}

impl Role {
    /// Every role with its name in the configuration.
    pub const NAMES: [(&str, Self); 9] = [
        ("subscribe", Self::Subscribe),
        ("publish", Self::Publish),
        ("ops", Self::Ops),
        ("pair", Self::Pair),
        ("login", Self::Login),
        ("tslm", Self::Tslm),
        ("flock", Self::Flock),
        ("flock-publish", Self::FlockPublish),
        ("relay", Self::Relay),
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, role)| *role == self).map_or("", |(name, _)| name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// Whether only this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    pub name: String,
    pub address: Address,
    pub roles: BTreeSet<Role>,
    pub tls: Option<TlsFiles>,
    /// Browser origins allowed besides the listener's own, as browsers write them (`https://app.example.com`).
    pub origins: Vec<String>,
    /// Accepted host names, with port if not the default; empty for any, unless signatures are verified here.
    pub hosts: Vec<String>,
    /// The URL by which clients reach the listener.
    pub public_url: Option<PublicUrl>,
    /// A signature decides on requests, so they must name the listener.
    pub verifies_signatures: bool,
    /// Concurrent connections; 0 for no limit of this listener.
    pub max_connections: u64,
    /// Every connection begins with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// For a Unix socket.
    pub socket_file: SocketFileConfig,
    /// For the roles `tslm` and `flock-publish`: the channels that clients may create and publish to; `None` for all that
    /// their credential allows.
    pub channels: Option<Vec<Pattern>>,
    /// WebSockets of the native protocol are compressed if the client offers it (RFC 7692).
    pub compression: bool,
    /// HTTP/2 beside HTTP/1.1, only over TLS.
    pub http2: bool,
    /// For the role `tslm`.
    pub tslm: TslmConfig,
    /// For the role `relay`: the path before the id, without outer slashes; may be empty.
    pub scope: String,
    /// For the role `flock`: every client of the listener counts as one with a valid token.
    pub flock_vouches: bool,
}

impl ListenerConfig {
    /// Whether the listener refuses requests for hosts other than its own.
    pub fn has_fixed_hosts(&self) -> bool {
        self.verifies_signatures || !self.hosts.is_empty()
    }
}

/// A URL without query, in lower case and without a default port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    origin: String,
    path: String,
}

impl PublicUrl {
    /// `path` is empty, or begins with a slash and does not end with one.
    pub fn new(origin: String, path: String) -> Self {
        Self { origin, path }
    }

    /// Scheme and authority, as browsers send them in `Origin`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub fn authority(&self) -> &str {
        self.origin.split_once("://").map_or("", |(_, authority)| authority)
    }

    pub fn path(&self) -> &str {
        &self.path
    }
}

/// Permissions of a socket file; `None` leaves those of a new file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketFileConfig {
    pub mode: Option<u32>,
    /// The id of its group.
    pub group: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Permissions of a TSLM listener, named as in that system's own configuration.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TslmConfig {
    pub subscribe: bool,
    pub create_channel: bool,
    pub notify_channel: bool,
    /// A client must present one of these; empty for none.
    pub auth_tokens: Vec<String>,
    /// Bytes of one message.
    pub max_message_size: u64,
    /// Frames per second of one connection, with a burst of the same size; 0 for no limit.
    pub rate_limit_per_second: u32,
}

/// Omits the tokens.
impl fmt::Debug for TslmConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subscribe, create_channel, notify_channel, auth_tokens, max_message_size, rate_limit_per_second } =
            self;
        f.debug_struct("TslmConfig")
            .field("subscribe", subscribe)
            .field("create_channel", create_channel)
            .field("notify_channel", notify_channel)
            .field("auth_tokens", &format_args!("[{}]", auth_tokens.len()))
            .field("max_message_size", max_message_size)
            .field("rate_limit_per_second", rate_limit_per_second)
            .finish()
    }
}

/// Limits that the transport itself enforces. A count of 0 means no limit only where the comment says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportLimits {
    /// Connections over all listeners.
    pub max_connections: u64,
    /// Connections of one client address (IPv6: of one /64); 0 for no limit.
    pub max_connections_per_address: u64,
    /// Time for the PROXY header, for TLS and for the HTTP request head, each; and the longest pause while a request
    /// body is received or a response is read.
    pub handshake: Duration,
    /// Size of an HTTP request head.
    pub max_header_bytes: usize,
    /// Size of an access token, ID token or logout token.
    pub max_token_bytes: usize,
    /// From the upgrade to the first message of a client without a credential.
    pub hello: Duration,
    /// One message of a subscriber to the gateway.
    pub max_command_bytes: usize,
    /// Messages per second of a WebSocket client that publishes nothing, with a burst of ten times as many.
    pub max_commands_per_second: u32,
    /// Fragments of one WebSocket message.
    pub max_fragments: u32,
    /// Body of a batch, and one message of a publishing WebSocket.
    pub max_batch_bytes: usize,
    /// Messages of a batch.
    pub max_batch_messages: usize,
    /// Proxies whose statement of the client's address is believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl TransportLimits {
    /// The limit of one client's messages. The burst lets it subscribe to all its channels at once.
    pub fn frame_rate(&self) -> RateLimit {
        const BURST_FACTOR: u32 = 10;
        RateLimit::new(self.max_commands_per_second, self.max_commands_per_second.saturating_mul(BURST_FACTOR))
    }
}

/// Settings of rooms: their limits, and those of their connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomsConfig {
    pub limits: RoomLimits,
    /// Between the gateway's pings of a silent peer.
    pub heartbeat: Duration,
    /// A silent peer is disconnected after this; zero for no limit.
    pub client_timeout: Duration,
    /// One message of a peer.
    pub max_message_bytes: usize,
    pub open: OpenTo,
    /// The relay form refuses texts of peers that look like messages of the gateway.
    pub relay_strict: bool,
    /// Messages carry the city, region and country of their sender.
    pub geoip: bool,
}

impl RoomsConfig {
    /// The limits of a peer's connection: those of every connection, with the heartbeat of rooms.
    pub fn connection_limits(&self, limits: &ConnectionLimits) -> ConnectionLimits {
        let (ping, pong) = if self.client_timeout.is_zero() {
            (self.heartbeat, Duration::MAX)
        } else {
            let second = Duration::from_secs(1);
            let ping = self.heartbeat.min(self.client_timeout.saturating_sub(second)).max(second);
            // The sweep that finds the peer silent runs up to a second after its last frame.
            (ping, self.client_timeout.saturating_sub(ping + second))
        };
        ConnectionLimits { ping, pong, ..*limits }
    }
}

/// The clients that may open a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenTo {
    Anyone,
    /// With a valid token.
    Login,
    /// With a publisher's signature.
    Publisher,
}

impl OpenTo {
    /// Every value with its name in the configuration.
    pub const NAMES: [(&str, Self); 3] =
        [("anyone", Self::Anyone), ("login", Self::Login), ("publisher", Self::Publisher)];
}
