//! `[listeners.NAME]`: addresses, roles, TLS.

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

settings! {
    /// No `Debug`: it holds tokens.
    pub struct Listener {
        pub address: Option<String>,
        pub mode: Option<String>,
        pub group: Option<String>,
        pub roles: Vec<String>,
        pub tls: Option<Tls>,
        pub plaintext: bool = false,
        pub origins: Vec<String>,
        pub hosts: Vec<String>,
        pub public_url: Option<String>,
        pub max_connections: u64 = 0,
        pub proxy_protocol: bool = false,
        pub compression: bool = false,
        pub http2: bool = true,
        pub default_endpoint_permissions: Vec<String>,
        pub auth_tokens: Vec<String>,
        pub max_message_size: u64 = 65_536,
        pub rate_limit_per_second: u64 = 0,
        pub channels: Option<Vec<String>>,
        pub scope: Option<String>,
        pub subscribers: Option<String>,
    }

    pub struct Tls {
        pub certificate: Option<String>,
        pub key: Option<String>,
    }
}
