//! `[listeners.NAME]`: addresses, roles, TLS.

use serde::{Deserialize, Serialize};

/// Listeners of a configuration file that names none. All are on loopback: public addresses must be chosen.
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

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    pub certificate: Option<String>,
    pub key: Option<String>,
}
