//! Variables of channelserver deployments: settings and precedence.

use super::*;
use lastmile::geo::Language;
use lastmile::ops::config::LogFormat;
use lastmile::transport::config::Address;

fn public(loaded: &Loaded) -> String {
    let listener = loaded.config.listeners.iter().find(|listener| listener.name == "public").unwrap();
    listener.address.to_string()
}

#[test]
fn database_enables_geoip() {
    let directory = TempDir::new();
    let database = directory.write("a, b.mmdb", "").display().to_string();
    let env = [("PAIR_MMDB_LOC", database.as_str()), ("PAIR_DEFAULT_LANG", "fr-CA")];
    let geoip = load_in(&directory, "", &env, &[]).unwrap().config.geoip.unwrap();
    assert_eq!((geoip.files, geoip.default_language), (vec![database.clone().into()], Language::French));
    let off = [env[0], ("LASTMILE_ROOMS__GEOIP", "false")];
    assert_eq!(load_in(&directory, "", &off, &[]).unwrap().config.geoip, None);
    let error = error_of("", &[("PAIR_MMDB_LOC", "/nowhere/city.mmdb")], &[]);
    assert!(error.contains("geoip.database = \"/nowhere/city.mmdb\" (environment variable PAIR_MMDB_LOC)"), "{error}");
}

#[test]
fn statsd_and_log_have_aliases() {
    let env =
        [("PAIR_STATSD_HOST", "stats.example.com"), ("PAIR_METRIC_NAME", "channelserver"), ("PAIR_HUMAN_LOGS", "true")];
    let config = load_all("[log]\nformat = \"json\"", &env, &[]).unwrap().config;
    let statsd = config.statsd.unwrap();
    assert_eq!(
        (statsd.host.as_str(), statsd.port, statsd.prefix.as_str()),
        ("stats.example.com", 8125, "channelserver")
    );
    assert_eq!(config.log.format, LogFormat::Human);
    let off = load_all("[statsd]\nhost = \"a\"", &[("PAIR_STATSD_HOST", "")], &[]).unwrap();
    assert_eq!(off.config.statsd, None);
}

#[test]
fn private_ranges_are_trusted_with_warning() {
    let proxies = |env: &[(&str, &str)]| {
        let loaded = load_all("", env, &[]).unwrap();
        let ranges: Vec<_> = loaded.config.limits.transport.trusted_proxies.iter().map(ToString::to_string).collect();
        (ranges.join(" "), loaded.warnings.join("\n"))
    };
    let (ranges, warnings) = proxies(&[("PAIR_TRUSTED_PROXY_LIST", "203.0.113.9, 2001:db8::1,198.51.100.0/24")]);
    let private = "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16";
    assert_eq!(ranges, format!("203.0.113.9/32 2001:db8::1/128 198.51.100.0/24 {private}"));
    assert!(warnings.contains("172.16.0.0/12") && warnings.contains("PAIR_TRUSTED_PROXY_LIST"), "{warnings}");
    assert_eq!(proxies(&[("PAIR_TRUSTED_PROXY_LIST", "")]), (String::new(), String::new()));
    let own = [("PAIR_TRUSTED_PROXY_LIST", "203.0.113.9"), ("LASTMILE_TRUSTED_PROXIES", "::1")];
    assert_eq!(proxies(&own), ("::1/128".to_owned(), String::new()));
    let (ranges, warnings) = proxies(&[("PAIR_TRUSTED_PROXY_LIST", "proxy.example,203.0.113.9,1.2.3.4/99")]);
    assert_eq!(ranges, format!("203.0.113.9/32 {private}"));
    for bad in ["\"proxy.example\"", "\"1.2.3.4/99\""] {
        assert!(warnings.contains(&format!("PAIR_TRUSTED_PROXY_LIST: {bad}")), "{warnings}");
    }
    let error = error_of("", &[("LASTMILE_TRUSTED_PROXIES", "proxy.example")], &[]);
    assert!(error.contains("trusted_proxies[0] = \"proxy.example\""), "{error}");
}

#[test]
fn host_and_port_set_room_listener_address() {
    let address = |env: &[(&str, &str)]| {
        let loaded = load_all("", env, &[]).unwrap();
        (public(&loaded), loaded.warnings.len())
    };
    let host = |host| ("PAIR_HOSTNAME", host);
    let port = ("PAIR_PORT", "8058");
    assert_eq!(address(&[host("0.0.0.0"), port]), ("0.0.0.0:8058".to_owned(), 1));
    assert_eq!(address(&[host("::"), port]), ("[::]:8058".to_owned(), 1));
    assert_eq!(address(&[host("localhost"), port]), ("127.0.0.1:8058".to_owned(), 0));
    assert_eq!(address(&[host("::1"), port]), ("[::1]:8058".to_owned(), 0));
    assert_eq!(address(&[port]), ("127.0.0.1:8058".to_owned(), 0));
    assert_eq!(address(&[host("0.0.0.0")]), ("0.0.0.0:8080".to_owned(), 1));
    assert_eq!(address(&[host(""), ("PAIR_PORT", "")]), ("127.0.0.1:8080".to_owned(), 0));

    let file = "[listeners.a]\naddress = \"unix:/tmp/a\"\nroles = [\"pair\"]";
    let loaded = load_all(file, &[port], &[]).unwrap();
    assert_eq!(loaded.config.listeners[0].address, Address::Tcp("127.0.0.1:8058".parse().unwrap()));
    for (env, part) in [(host("rooms.example"), "PAIR_HOSTNAME"), (("PAIR_PORT", "x"), "PAIR_PORT")] {
        let error = error_of("", &[env], &[]);
        assert!(error.contains(part) && error.contains("must be an IP address and a port"), "{error}");
    }
}

#[test]
fn only_alias_address_implies_plaintext() {
    let pair = [("PAIR_HOSTNAME", "0.0.0.0"), ("PAIR_PORT", "8058")];
    let warning = load_all("", &pair, &[]).unwrap().warnings.remove(0);
    assert!(warning.contains("listeners.public.plaintext (environment variable PAIR_HOSTNAME)"), "{warning}");
    // A `LASTMILE_*` variable or flag sets the address, so plaintext must be explicit.
    let own = [pair[0], pair[1], ("LASTMILE_LISTENERS__PUBLIC__ADDRESS", "0.0.0.0:9000")];
    assert!(error_of("", &own, &[]).contains("LASTMILE_LISTENERS__PUBLIC__ADDRESS"));
    assert!(error_of("", &pair, &["listeners.public.address=0.0.0.0:1"]).contains("plaintext = true"));
    let local = [pair[0], ("LASTMILE_LISTENERS__PUBLIC__ADDRESS", "127.0.0.1:9000")];
    let loaded = load_all("", &local, &[]).unwrap();
    assert_eq!((public(&loaded).as_str(), loaded.warnings.len()), ("127.0.0.1:9000", 0));
    // The file refuses plaintext.
    let file = "[listeners.a]\naddress = \"127.0.0.1:1\"\nroles = [\"pair\"]\nplaintext = false";
    assert!(error_of(file, &pair, &[]).contains("0.0.0.0:8058"));
}

#[test]
fn alias_address_keeps_tls() {
    let directory = TempDir::new();
    directory.write("a.crt", "certificate");
    directory.write("a.key", "key");
    let file = "[listeners.a]\naddress = \"127.0.0.1:1\"\nroles = [\"pair\"]\n\
                tls = { certificate = \"a.crt\", key = \"a.key\" }";
    let pair = [("PAIR_HOSTNAME", "0.0.0.0"), ("PAIR_PORT", "8058")];
    let listener = load_in(&directory, file, &pair, &[]).unwrap().config.listeners.remove(0);
    assert!(listener.tls.is_some() && listener.address.to_string() == "0.0.0.0:8058");
}

#[test]
fn alias_address_needs_one_room_listener() {
    let listener =
        |name: &str, role: &str| format!("[listeners.{name}]\naddress = \"127.0.0.1:0\"\nroles = [{role:?}]\n");
    let pair = [("PAIR_PORT", "8058")];
    assert!(error_of(&listener("a", "ops"), &pair, &[]).contains("PAIR_PORT: no listener has the role \"pair\""));
    let two = listener("a", "pair") + &listener("b", "pair");
    assert!(error_of(&two, &pair, &[]).contains("PAIR_PORT: several listeners"));
}

#[test]
fn ignored_variables_are_warnings() {
    let names = ["DEBUG", "VERBOSE", "HEARTBEAT", "IP_REPUTATION_SERVER", "IPREP_MIN", "IP_VIOLATION"];
    for name in names.map(|name| format!("PAIR_{name}")) {
        let warnings = load_all("", &[(name.as_str(), "true")], &[]).unwrap().warnings;
        assert!(
            warnings.len() == 1 && warnings[0].contains(&name) && warnings[0].contains("no effect"),
            "{warnings:?}"
        );
    }
}

#[test]
fn mistakes_name_the_variable() {
    let error = |name: &str, value: &str| error_of("", &[(name, value)], &[]);
    let message = error("PAIR_MAX_EXCHANGES", "many");
    assert!(message.contains("rooms.max_exchanges = \"many\" (environment variable PAIR_MAX_EXCHANGES)"), "{message}");
    assert!(error("PAIR_MAX_EXCHANGE", "1").contains("did you mean PAIR_MAX_EXCHANGES?"));
    assert!(error("PAIR_XYZZY", "1").contains("PAIR_XYZZY: no such variable"));
    assert!(!error("PAIR_XYZZY", "secret").contains("secret"));
    assert!(error("PAIR_HUMAN_LOGS", "maybe").contains("PAIR_HUMAN_LOGS = \"maybe\": must be true or false"));
}
