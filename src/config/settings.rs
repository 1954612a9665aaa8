//! The settings as people write them: names, types and defaults, nothing checked yet.
//!
//! [`super::check`] takes each struct apart without `..`, so a setting that nobody uses does not compile.

mod engine;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::engine::Engine;

/// All settings.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub egress: String,
    pub egress_private_hosts: Vec<String>,
    pub egress_ca: Option<String>,
    pub trusted_proxies: Vec<String>,
    pub listeners: BTreeMap<String, Listener>,
    pub publishers: BTreeMap<String, Publisher>,
    pub issuers: Vec<Issuer>,
    pub login: Login,
    pub channels: Vec<Channel>,
    pub channel_defaults: ChannelDefaults,
    pub revocations_file: Option<String>,
    pub engine: Engine,
    pub limits: Limits,
    pub rooms: Rooms,
    pub geoip: Geoip,
    pub statsd: Statsd,
    pub drain: Drain,
    pub log: Log,
}

/// The listeners of a gateway whose file names none. All on loopback: being public is a decision.
pub const DEFAULT_LISTENERS: &str = r#"
[listeners.public]
address = "127.0.0.1:8080"
roles = ["subscribe", "pair", "login"]
[listeners.publish]
address = "127.0.0.1:8081"
roles = ["publish"]
[listeners.ops]
address = "127.0.0.1:8082"
roles = ["ops"]
"#;

/// No `Debug`: it holds tokens.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listener {
    pub address: Option<String>,
    pub roles: Vec<String>,
    pub tls: Option<Tls>,
    pub plaintext: bool,
    pub origins: Vec<String>,
    pub hosts: Vec<String>,
    pub max_connections: u64,
    pub proxy_protocol: bool,
    pub compression: bool,
    pub http2: bool,
    pub default_endpoint_permissions: Vec<String>,
    pub auth_tokens: Vec<String>,
    pub max_message_size: u64,
    pub rate_limit_per_second: u64,
    pub scope: Option<String>,
    pub subscribers: Option<String>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    pub certificate: Option<String>,
    pub key: Option<String>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Publisher {
    pub key: Option<String>,
    pub sha256: Option<String>,
    pub basic: Option<Basic>,
    pub channels: Vec<String>,
    pub control: bool,
    pub not_after: Option<String>,
    pub rate_limit_per_second: u64,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Basic {
    pub username: Option<String>,
    pub password_argon2: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Issuer {
    pub issuer: Option<String>,
    pub audience: Option<OneOrMany>,
    pub jwks_file: Option<String>,
    pub jwks_url: Option<String>,
    pub discovery: bool,
    pub jwks_max_age_secs: Option<u64>,
    pub algorithms: Vec<String>,
    pub typ: Option<String>,
    pub leeway_secs: u64,
    pub max_lifetime_secs: u64,
    pub channels: Option<Vec<String>>,
    pub login: Option<IssuerLogin>,
}

/// How the issuer knows this gateway, so that people can log in there.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssuerLogin {
    pub client_id: Option<String>,
    pub client_secret_file: Option<String>,
    pub scopes: Vec<String>,
    pub name: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Login {
    pub url: Option<String>,
    pub seal_keys: Vec<String>,
    pub session_secs: u64,
}

/// The rule of the channels that match; what it leaves out is as in [`ChannelDefaults`].
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Channel {
    pub r#match: Option<String>,
    pub subscribers: Option<Subscribers>,
    pub deny: Option<OneOrManyRequirements>,
    pub max_connections: Option<u64>,
    pub max_messages: Option<u64>,
    pub max_data_bytes: Option<u64>,
    pub max_message_bytes: Option<u64>,
    pub lifespan_secs: Option<u64>,
    pub backlog_messages: Option<u64>,
    pub backlog_secs: Option<u64>,
    pub backlog_bytes: Option<u64>,
    pub slow_consumer: Option<String>,
    pub compress: Option<bool>,
    pub replies: Option<bool>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelDefaults {
    pub subscribers: Subscribers,
    pub deny: Option<OneOrManyRequirements>,
    pub max_connections: u64,
    pub max_messages: u64,
    pub max_data_bytes: u64,
    pub max_message_bytes: u64,
    pub lifespan_secs: u64,
    pub backlog_messages: u64,
    pub backlog_secs: u64,
    pub backlog_bytes: u64,
    pub slow_consumer: String,
    pub compress: bool,
    pub replies: bool,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Subscribers {
    Word(String),
    Matching(OneOrManyRequirements),
}

/// One table, or a list of alternatives.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrManyRequirements {
    // First: a list would also do for the members of a table, in their order.
    Many(Vec<Requirements>),
    One(Requirements),
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Requirements {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<OneOrMany>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claim: BTreeMap<String, Value>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub max_connections: u64,
    pub max_connections_per_address: u64,
    pub handshake_secs: u64,
    pub max_header_bytes: u64,
    pub hello_secs: u64,
    pub max_command_bytes: u64,
    pub max_commands_per_second: u64,
    pub max_fragments: u64,
    pub max_subscriptions: u64,
    pub max_batch_bytes: u64,
    pub max_batch_messages: u64,
    pub outbox_bytes: u64,
    pub outbox_frames: u64,
    pub outbox_stall_secs: u64,
    pub close_secs: u64,
    pub ping_secs: u64,
    pub pong_secs: u64,
    pub max_channels: u64,
    pub channel_idle_secs: u64,
    pub max_backlog_bytes: u64,
    pub replay_nonces: u64,
    pub idempotency_keys: u64,
    pub idempotency_secs: u64,
    pub reply_secs: u64,
    pub max_replies: u64,
    pub max_replies_per_connection: u64,
    pub max_reply_bytes: u64,
    pub revocations: u64,
    pub tickets: u64,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rooms {
    pub max_exchanges: Option<u64>,
    pub max_data_bytes: u64,
    pub conn_lifespan_secs: Option<u64>,
    pub client_timeout_secs: u64,
    pub heartbeat_interval_secs: u64,
    pub max_connections: u64,
    pub geoip: bool,
    pub max_rooms: u64,
    pub max_rooms_per_address: u64,
    pub max_message_bytes: u64,
    pub open: String,
    pub max_seats: u64,
    pub resume_secs: u64,
    pub resume_messages: u64,
    pub resume_bytes: u64,
    pub code_secs: u64,
    pub code_attempts: u64,
    pub relay_strict: bool,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Geoip {
    pub database: OneOrMany,
    pub default_language: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Statsd {
    pub host: String,
    pub prefix: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    pub window_secs: u64,
    pub deadline_secs: u64,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub format: String,
    pub filter: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            egress: "configured".to_owned(),
            egress_private_hosts: Vec::new(),
            egress_ca: None,
            trusted_proxies: Vec::new(),
            listeners: BTreeMap::new(),
            publishers: BTreeMap::new(),
            issuers: Vec::new(),
            login: Login::default(),
            channels: Vec::new(),
            channel_defaults: ChannelDefaults::default(),
            revocations_file: None,
            engine: Engine::default(),
            limits: Limits::default(),
            rooms: Rooms::default(),
            geoip: Geoip::default(),
            statsd: Statsd::default(),
            drain: Drain::default(),
            log: Log::default(),
        }
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            address: None,
            roles: Vec::new(),
            tls: None,
            plaintext: false,
            origins: Vec::new(),
            hosts: Vec::new(),
            max_connections: 0,
            proxy_protocol: false,
            compression: false,
            http2: true,
            default_endpoint_permissions: Vec::new(),
            auth_tokens: Vec::new(),
            max_message_size: 65_536,
            rate_limit_per_second: 0,
            scope: None,
            subscribers: None,
        }
    }
}

impl Default for Issuer {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: None,
            jwks_file: None,
            jwks_url: None,
            discovery: false,
            jwks_max_age_secs: None,
            algorithms: ["ES256", "EdDSA", "RS256"].map(str::to_owned).into(),
            typ: None,
            leeway_secs: 30,
            max_lifetime_secs: 86_400,
            channels: None,
            login: None,
        }
    }
}

impl Default for IssuerLogin {
    fn default() -> Self {
        Self { client_id: None, client_secret_file: None, scopes: vec!["openid".to_owned()], name: None }
    }
}

impl Default for Login {
    fn default() -> Self {
        Self { url: None, seal_keys: Vec::new(), session_secs: 28_800 }
    }
}

impl Default for ChannelDefaults {
    fn default() -> Self {
        Self {
            subscribers: Subscribers::Word("authenticated".to_owned()),
            deny: None,
            max_connections: 100_000,
            max_messages: 0,
            max_data_bytes: 0,
            max_message_bytes: 65_536,
            lifespan_secs: 0,
            backlog_messages: 0,
            backlog_secs: 300,
            backlog_bytes: 1_048_576,
            slow_consumer: "disconnect".to_owned(),
            compress: true,
            replies: false,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 100_000,
            max_connections_per_address: 0,
            handshake_secs: 10,
            max_header_bytes: 16_384,
            hello_secs: 10,
            max_command_bytes: 65_536,
            max_commands_per_second: 100,
            max_fragments: 1_024,
            max_subscriptions: 1_000,
            max_batch_bytes: 4_194_304,
            max_batch_messages: 1_000,
            outbox_bytes: 1_048_576,
            outbox_frames: 16_384,
            outbox_stall_secs: 15,
            close_secs: 30,
            ping_secs: 25,
            pong_secs: 10,
            max_channels: 100_000,
            channel_idle_secs: 3_600,
            max_backlog_bytes: 268_435_456,
            replay_nonces: 500_000,
            idempotency_keys: 10_000,
            idempotency_secs: 600,
            reply_secs: 30,
            max_replies: 1_000,
            max_replies_per_connection: 16,
            max_reply_bytes: 1_048_576,
            revocations: 100_000,
            tickets: 10_000,
        }
    }
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            max_exchanges: None,
            max_data_bytes: 0,
            conn_lifespan_secs: None,
            client_timeout_secs: 60,
            heartbeat_interval_secs: 5,
            max_connections: 3,
            geoip: false,
            max_rooms: 100_000,
            max_rooms_per_address: 0,
            max_message_bytes: 65_536,
            open: "anyone".to_owned(),
            max_seats: 2,
            resume_secs: 30,
            resume_messages: 64,
            resume_bytes: 262_144,
            code_secs: 120,
            code_attempts: 3,
            relay_strict: false,
        }
    }
}

impl Default for Geoip {
    fn default() -> Self {
        Self { database: OneOrMany::One("mmdb/city.mmdb".to_owned()), default_language: "en".to_owned() }
    }
}

impl Default for Statsd {
    fn default() -> Self {
        Self { host: String::new(), prefix: "lastmile".to_owned() }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { window_secs: 5, deadline_secs: 15 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: "auto".to_owned(), filter: "info".to_owned() }
    }
}
