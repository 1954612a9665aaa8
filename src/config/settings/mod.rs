//! The settings as written: names, types and defaults, unchecked.
//!
//! [`super::check`] destructures each struct without `..`, so an unused setting does not compile.

mod channels;
mod engine;
mod issuers;
mod limits;
mod listeners;
mod one_or_many;
mod publishers;
mod rooms;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::channels::{Channel, ChannelDefaults, OneOrManyRequirements, Requirements, Subscribers};
pub use self::engine::Engine;
pub use self::issuers::{Issuer, IssuerLogin, Login};
pub use self::limits::Limits;
pub use self::listeners::{DEFAULT_LISTENERS, Listener, Tls};
pub use self::one_or_many::OneOrMany;
pub use self::publishers::{Basic, Publisher};
pub use self::rooms::Rooms;

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

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Geoip {
    pub database: OneOrMany,
    pub default_language: String,
}

impl Default for Geoip {
    fn default() -> Self {
        Self { database: OneOrMany::One("mmdb/city.mmdb".to_owned()), default_language: "en".to_owned() }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Statsd {
    pub host: String,
    pub prefix: String,
}

impl Default for Statsd {
    fn default() -> Self {
        Self { host: String::new(), prefix: "lastmile".to_owned() }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    pub window_secs: u64,
    pub deadline_secs: u64,
}

impl Default for Drain {
    fn default() -> Self {
        Self { window_secs: 5, deadline_secs: 15 }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub format: String,
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: "auto".to_owned(), filter: "info".to_owned() }
    }
}
