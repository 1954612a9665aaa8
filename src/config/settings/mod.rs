//! The settings as written: names, types and defaults, unchecked.
//!
//! [`super::check`] destructures each struct without `..`, so an unused setting does not compile.

/// Tables of settings, each with its default behind its type; without one, that of the type.
macro_rules! settings {
    ($($(#[$doc:meta])* pub struct $name:ident { $(pub $field:ident: $type:ty $(= $default:expr)?,)+ })+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, ::serde::Serialize, ::serde::Deserialize)]
            #[serde(deny_unknown_fields, default)]
            pub struct $name {
                $(pub $field: $type,)+
            }

            impl Default for $name {
                fn default() -> Self {
                    Self { $($field: settings!(@value $($default)?),)+ }
                }
            }
        )+
    };
    (@value) => { Default::default() };
    (@value $default:expr) => { $default };
}

mod channels;
mod engine;
mod issuers;
mod limits;
mod listeners;
mod one_or_many;
mod publishers;
mod rooms;

use std::collections::BTreeMap;

pub use self::channels::{Channel, ChannelDefaults, OneOrManyRequirements, Requirements, Subscribers};
pub use self::engine::Engine;
pub use self::issuers::{Issuer, IssuerLogin, Login};
pub use self::limits::Limits;
pub use self::listeners::{DEFAULT_LISTENERS, Listener, Tls};
pub use self::one_or_many::OneOrMany;
pub use self::publishers::{Basic, Publisher};
pub use self::rooms::Rooms;

settings! {
    /// All settings.
    pub struct Settings {
        pub egress: String = "configured".to_owned(),
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

    pub struct Geoip {
        pub database: OneOrMany = OneOrMany::One("mmdb/city.mmdb".to_owned()),
        pub default_language: String = "en".to_owned(),
    }

    pub struct Statsd {
        pub host: String,
        pub prefix: String = "lastmile".to_owned(),
    }

    pub struct Drain {
        pub window_secs: u64 = 5,
        pub deadline_secs: u64 = 15,
    }

    pub struct Log {
        pub format: String = "auto".to_owned(),
        pub filter: String = "info".to_owned(),
    }
}
