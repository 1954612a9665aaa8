//! The `PAIR_*` variables of channelserver deployments, as aliases of settings. Weaker than `LASTMILE_*`.

use std::net::{IpAddr, Ipv6Addr};

use config::{Value as Raw, ValueKind};
use ipnet::IpNet;
use serde_json::Value;

use super::lookup::{self, typed};
use super::origin::Source;
use super::path::Path;
use super::report::Report;
use super::schema::Schema;
use super::sources::Sources;
use super::suggest;

const PREFIX: &str = "PAIR_";

/// Ranges that channelserver always trusts.
const PRIVATE_RANGES: [&str; 3] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];

#[derive(Clone, Copy)]
pub enum Meaning {
    /// A setting; an empty variable is ignored.
    Setting(&'static str),
    /// A setting; an empty variable sets it to the empty string.
    SettingOrOff(&'static str),
    /// Host or port of the listener for rooms.
    Address,
    Database,
    Proxies,
    HumanLogs,
    /// Accepted without effect, as in channelserver.
    Unused,
}

/// Every variable, without the prefix.
pub const VARIABLES: [(&str, Meaning); 20] = [
    ("HOSTNAME", Meaning::Address),
    ("PORT", Meaning::Address),
    ("MAX_CHANNEL_CONNECTIONS", Meaning::Setting("rooms.max_connections")),
    ("CONN_LIFESPAN", Meaning::Setting("rooms.conn_lifespan_secs")),
    ("CLIENT_TIMEOUT", Meaning::Setting("rooms.client_timeout_secs")),
    ("HEARTBEAT_INTERVAL", Meaning::Setting("rooms.heartbeat_interval_secs")),
    ("MAX_EXCHANGES", Meaning::Setting("rooms.max_exchanges")),
    ("MAX_DATA", Meaning::Setting("rooms.max_data_bytes")),
    ("MMDB_LOC", Meaning::Database),
    ("DEFAULT_LANG", Meaning::Setting("geoip.default_language")),
    ("STATSD_HOST", Meaning::SettingOrOff("statsd.host")),
    ("METRIC_NAME", Meaning::Setting("statsd.prefix")),
    ("TRUSTED_PROXY_LIST", Meaning::Proxies),
    ("HUMAN_LOGS", Meaning::HumanLogs),
    ("DEBUG", Meaning::Unused),
    ("VERBOSE", Meaning::Unused),
    ("HEARTBEAT", Meaning::Unused),
    ("IP_REPUTATION_SERVER", Meaning::Unused),
    ("IPREP_MIN", Meaning::Unused),
    ("IP_VIOLATION", Meaning::Unused),
];

/// Returns the settings that the variables stand for, and reports unknown variables.
pub fn read(sources: &Sources, schema: &Schema, tree: &Value, report: &mut Report) -> Vec<(Path, Raw)> {
    let mut reader = Reader { sources, schema, tree, report, overrides: Vec::new() };
    let mut variables: Vec<_> = sources.env.iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort();
    for (name, value) in variables {
        reader.variable(name, value);
    }
    reader.address();
    reader.overrides
}

struct Reader<'a> {
    sources: &'a Sources,
    schema: &'a Schema,
    /// Defaults and file.
    tree: &'a Value,
    report: &'a mut Report,
    overrides: Vec<(Path, Raw)>,
}

impl Reader<'_> {
    fn variable(&mut self, name: &str, value: &str) {
        let short = name.strip_prefix(PREFIX).unwrap_or(name);
        let Some((_, meaning)) = VARIABLES.iter().find(|(known, _)| *known == short) else {
            let meant = suggest::word(short, VARIABLES.iter().map(|(known, _)| *known));
            let hint = meant.map(|meant| format!("; did you mean {PREFIX}{meant}?")).unwrap_or_default();
            self.report.mistake(Path::root(), format!("{name}: no such variable{hint}"));
            return;
        };
        match *meaning {
            Meaning::SettingOrOff(setting) => self.set(name, setting, value),
            Meaning::Unused => {
                self.report.warn_line(format!("environment variable {name}: has no effect, as in channelserver"));
            }
            _ if value.is_empty() => {}
            Meaning::Setting(setting) => self.set(name, setting, value),
            Meaning::Database => {
                // A path with a comma is one path, not a list.
                self.put(name, Path::of("geoip").key("database"), ValueKind::String(value.to_owned()));
                self.put(name, Path::of("rooms").key("geoip"), ValueKind::Boolean(true));
            }
            Meaning::Proxies => self.proxies(name, value),
            Meaning::HumanLogs => match value.to_lowercase().as_str() {
                "true" | "1" => self.set(name, "log.format", "human"),
                "false" | "0" => {}
                _ => self.report.mistake(Path::root(), format!("{name} = {value:?}: must be true or false")),
            },
            // `Reader::address` handles host and port together.
            Meaning::Address => {}
        }
    }

    fn proxies(&mut self, name: &str, value: &str) {
        let path = Path::of("trusted_proxies");
        let named = value.split(',').map(str::trim).filter(|proxy| !proxy.is_empty());
        // As in channelserver, which skips them.
        let is_range = |proxy: &&str| proxy.parse::<IpAddr>().is_ok() || proxy.parse::<IpNet>().is_ok();
        let (named, bad): (Vec<_>, Vec<_>) = named.partition(is_range);
        for proxy in bad {
            self.report.warn_line(format!("{name}: {proxy:?} is no address or range, so it is left out"));
        }
        let all = named.into_iter().chain(PRIVATE_RANGES).map(Raw::from).collect();
        self.put(name, path.clone(), ValueKind::Array(all));
        if !self.is_overridden(&path) {
            let ranges = PRIVATE_RANGES.join(", ");
            self.report.warn(&path, format_args!("{ranges} are trusted too, as in channelserver"));
        }
    }

    /// Applies `PAIR_HOSTNAME` and `PAIR_PORT`. A missing half keeps its configured value.
    fn address(&mut self) {
        let value = |short: &str| {
            let found = self.sources.env.iter().find(|(name, _)| name.strip_prefix(PREFIX) == Some(short));
            found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
        };
        let (hostname, port) = (value("HOSTNAME"), value("PORT"));
        let name = match (hostname, port) {
            (None, None) => return,
            (Some(_), _) => "PAIR_HOSTNAME",
            (None, Some(_)) => "PAIR_PORT",
        };
        let (listener, settings) = match self.pair_listener() {
            Ok(listener) => listener,
            Err(reason) => {
                let line = format!("{name}: {reason}; set the address of a listener instead");
                return self.report.mistake(Path::of("listeners"), line);
            }
        };
        let listener = Path::of("listeners").key(&listener);
        let path = listener.key("address");
        if self.is_overridden(&path) {
            return;
        }
        let own = settings.get("address").and_then(Value::as_str).filter(|own| !own.starts_with("unix:"));
        let (own_host, own_port) = own.and_then(|own| own.rsplit_once(':')).unwrap_or(("127.0.0.1", "8000"));
        let host = hostname.map_or(own_host.to_owned(), |hostname| match hostname.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => hostname.to_owned(),
        });
        let address = format!("{host}:{}", port.unwrap_or(own_port));
        let has_decision = ["plaintext", "tls"].iter().any(|key| settings.get(key).is_some());
        self.put(name, path, ValueKind::String(address));
        if !is_loopback(&host) && !has_decision && !self.is_overridden(&listener.key("tls")) {
            let path = listener.key("plaintext");
            self.put(name, path.clone(), ValueKind::Boolean(true));
            self.report.warn(&path, "true, as in channelserver: a TLS proxy must be in front of this listener");
        }
    }

    /// Returns the only listener with the role `pair`, with its settings in the file or the defaults.
    fn pair_listener(&self) -> Result<(String, Value), &'static str> {
        let serves_rooms = |listener: &Value| {
            let roles = listener.get("roles").and_then(Value::as_array);
            roles.is_some_and(|roles| roles.iter().any(|role| role == "pair"))
        };
        let listeners = self.tree.get("listeners").and_then(Value::as_object).into_iter().flatten();
        let mut found = listeners.filter(|(_, listener)| serves_rooms(listener));
        match (found.next(), found.next()) {
            (Some((name, listener)), None) => Ok((name.clone(), listener.clone())),
            (None, _) => Err("no listener has the role \"pair\""),
            (Some(_), Some(_)) => Err("several listeners have the role \"pair\""),
        }
    }

    /// Whether `LASTMILE_*` or a flag sets the path or a part of it.
    fn is_overridden(&self, path: &Path) -> bool {
        let (variable, flag) = (path.variable(), path.to_string());
        self.sources.env.iter().any(|(name, _)| name.to_uppercase().starts_with(&variable))
            || self.sources.set.iter().any(|set| set.trim_start().starts_with(&flag))
    }

    fn set(&mut self, name: &str, setting: &str, value: &str) {
        let words: Vec<String> = setting.split('.').map(str::to_owned).collect();
        if let Some((path, schema)) = lookup::find(self.schema, self.tree, &words) {
            self.put(name, path, typed(schema, value).kind);
        }
    }

    fn put(&mut self, name: &str, path: Path, value: impl Into<ValueKind>) {
        self.report.origins.overridden(path.clone(), Source::Variable(name.to_owned()));
        self.overrides.push((path, Raw::new(None, value)));
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use test_support::TempDir;

    use super::super::layers::Layers;
    use super::*;

    fn sources(directory: &TempDir, file: &str, env: &[(&str, &str)], set: &[&str]) -> Sources {
        Sources {
            file: Some(directory.write("lastmile.toml", file)),
            env: env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            set: set.iter().map(|flag| flag.to_string()).collect(),
        }
    }

    /// The merged settings, unchecked.
    fn tree(file: &str, env: &[(&str, &str)], set: &[&str]) -> Value {
        let directory = TempDir::new();
        Layers::read(&sources(&directory, file, env, set), &Schema::of_settings()).unwrap().tree
    }

    #[test]
    fn room_limits_have_aliases() {
        let env = [
            ("PAIR_MAX_EXCHANGES", "20"),
            ("PAIR_MAX_DATA", "2048"),
            ("PAIR_CONN_LIFESPAN", "60"),
            ("PAIR_CLIENT_TIMEOUT", "30"),
            ("PAIR_HEARTBEAT_INTERVAL", "2"),
            ("PAIR_MAX_CHANNEL_CONNECTIONS", "5"),
        ];
        let rooms = json!({
            "max_exchanges": 20,
            "max_data_bytes": 2048,
            "conn_lifespan_secs": 60,
            "client_timeout_secs": 30,
            "heartbeat_interval_secs": 2,
            "max_connections": 5,
        });
        assert_eq!(tree("", &env, &[])["rooms"], rooms);
        let directory = TempDir::new();
        assert!(crate::config::load(&sources(&directory, "", &env, &[])).unwrap().warnings.is_empty());
    }

    #[test]
    fn aliases_win_over_file_only() {
        let file = "[rooms]\nmax_exchanges = 1";
        let pair = ("PAIR_MAX_EXCHANGES", "2");
        let own = ("LASTMILE_ROOMS__MAX_EXCHANGES", "3");
        let of = |env: &[(&str, &str)], set: &[&str]| tree(file, env, set)["rooms"]["max_exchanges"].clone();
        assert_eq!(of(&[pair], &[]), 2);
        assert_eq!(of(&[own, pair], &[]), 3);
        assert_eq!(of(&[pair], &["rooms.max_exchanges=4"]), 4);
        assert_eq!(of(&[("PAIR_MAX_EXCHANGES", "")], &[]), 1);
    }

    #[test]
    fn readme_lists_every_variable() {
        let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/README.md")).unwrap();
        let documented: Vec<_> = document.split(|c: char| c != '_' && !c.is_ascii_uppercase()).collect();
        for (name, _) in VARIABLES {
            assert!(documented.contains(&format!("PAIR_{name}").as_str()), "PAIR_{name}");
        }
    }
}
