//! Valid settings and their checked values.

use lastmile::auth::PublisherKey;
use lastmile::broker::{Audience, SlowConsumer};
use lastmile::geo::Language;
use lastmile::transport::config::{Address, OpenTo, Role};

use super::*;
use lastmile::auth::token::{KeySource, Remote};

#[test]
fn shipped_example_loads_without_warnings() {
    let loaded = load(&Sources { file: Some(shipped("lastmile.example.toml")), ..Sources::default() }).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert_eq!(loaded.config.policy.publishers.len(), 2);
    assert_eq!(loaded.config.policy.channels.rules.rules.len(), 2);
}

#[test]
fn rules_inherit_defaults() {
    let file = r#"
        [channel_defaults]
        subscribers = "anyone"
        max_connections = 7
        slow_consumer = "latest"
        [[channels]]
        match = "a.*"
        max_connections = 8
        backlog_messages = 3
    "#;
    let rules = load_file(file).config.policy.channels.rules;
    let rule = &rules.rules[0];
    assert_eq!((rule.limits.max_connections, rules.default.limits.max_connections), (8, 7));
    assert_eq!((rule.backlog_messages, rules.default.backlog_messages), (3, 0));
    assert_eq!((&rule.subscribers, rule.slow_consumer), (&Audience::Anyone, SlowConsumer::Latest));
    assert_eq!(rule.backlog_age.as_secs(), 300);
}

#[test]
fn subscribers_need_token_by_default() {
    assert_eq!(load_file("").config.policy.channels.rules.default.subscribers, Audience::Authenticated);
}

#[test]
fn requirements_hold_scope_groups_and_claims() {
    let file = r#"
        [channel_defaults]
        subscribers = { scope = "s", group = "g", claim = { tenant = "t", "https://x.example/level" = 3 } }
    "#;
    let Audience::Matching(requirements) = load_file(file).config.policy.channels.rules.default.subscribers else {
        panic!()
    };
    let [required] = requirements.as_slice() else { panic!("{requirements:?}") };
    assert_eq!((required.scope.as_deref(), required.groups.as_slice()), (Some("s"), ["g".to_owned()].as_slice()));
    assert_eq!(required.claims["tenant"], "t");
    assert_eq!(required.claims["https://x.example/level"], 3);
}

#[test]
fn public_listener_needs_tls_or_plaintext() {
    let directory = TempDir::new();
    directory.write("a.crt", "certificate");
    directory.write("a.key", "key");
    let listener = |rest: &str| format!("[listeners.a]\naddress = \"0.0.0.0:8080\"\nroles = [\"subscribe\"]\n{rest}");
    assert!(load_in(&directory, &listener(""), &[], &[]).is_err());
    assert!(load_in(&directory, &listener("plaintext = true"), &[], &[]).is_ok());
    let loaded =
        load_in(&directory, &listener("tls = { certificate = \"a.crt\", key = \"a.key\" }"), &[], &[]).unwrap();
    assert_eq!(loaded.config.listeners[0].tls.as_ref().unwrap().key, directory.path().join("a.key"));
    assert_eq!(loaded.watched.len(), 3);
}

#[test]
fn world_readable_key_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new();
    directory.write("a.crt", "certificate");
    let key = directory.write("a.key", "key");
    let file =
        "[listeners.a]\naddress = \"[::1]:0\"\nroles = [\"ops\"]\ntls = { certificate = \"a.crt\", key = \"a.key\" }";
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let warnings = load_in(&directory, file, &[], &[]).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("chmod 600"), "{warnings:?}");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(load_in(&directory, file, &[], &[]).unwrap().warnings.is_empty());
}

#[test]
fn addresses_are_ip_localhost_or_unix() {
    let address = |text: &str| {
        let file = format!("[listeners.a]\naddress = \"{text}\"\nroles = [\"ops\"]");
        load_file(&file).config.listeners[0].address.clone()
    };
    assert_eq!(address("localhost:0"), Address::Tcp("127.0.0.1:0".parse().unwrap()));
    assert_eq!(address("[::1]:80"), Address::Tcp("[::1]:80".parse().unwrap()));
    assert_eq!(address("unix:/run/lastmile.sock"), Address::Unix("/run/lastmile.sock".into()));
}

const LOGIN: &str = r#"
[login]
url = "http://127.0.0.1:8080"
[[issuers]]
issuer = "http://127.0.0.1:9"
audience = "a"
discovery = true
login = { client_id = "c" }
"#;

#[test]
fn login_has_defaults_and_warning() {
    let loaded = load_file(LOGIN);
    let login = loaded.config.policy.login.unwrap();
    assert_eq!((login.url.as_str(), login.providers[0].name.as_str()), ("http://127.0.0.1:8080", "127.0.0.1"));
    assert_eq!(login.providers[0].scopes, ["openid"]);
    assert!(loaded.warnings.join("").contains("sessions end with this process"), "{:?}", loaded.warnings);
    assert!(load_file("").config.policy.login.is_none());
}

#[test]
fn relay_rooms_have_no_default_limits() {
    let caps = |file: &str| {
        let limits = load_file(file).config.rooms.limits;
        let of = |caps: lastmile::broker::room::RoomCaps| (caps.max_exchanges, caps.lifespan.as_secs());
        (of(limits.caps()), of(limits.relay_caps()))
    };
    assert_eq!(caps(""), ((10, 300), (0, 0)));
    assert_eq!(caps("[rooms]\nmax_exchanges = 10\nconn_lifespan_secs = 60"), ((10, 60), (10, 60)));
}

#[test]
fn room_limits_are_read_and_checked() {
    let file = "[rooms]\nmax_exchanges = 20\nopen = \"login\"";
    let rooms = load_all(file, &[("LASTMILE_ROOMS__CONN_LIFESPAN_SECS", "5")], &[]).unwrap().config.rooms;
    assert_eq!((rooms.limits.max_exchanges, rooms.limits.lifespan.as_secs()), (20, 5));
    assert_eq!(rooms.open, OpenTo::Login);
    for (file, part) in [
        ("open = \"loggin\"", "did you mean \"login\""),
        ("max_seats = 1", "must be 2 to 64"),
        ("code_secs = 301", "must be 1 to 300"),
        ("heartbeat_interval_secs = 0", "must be at least 1"),
    ] {
        let error = error_of(&format!("[rooms]\n{file}"), &[], &[]);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn relay_scope_is_trimmed() {
    let file = |more: &str| format!("[listeners.a]\naddress = \"127.0.0.1:0\"\n{more}");
    let scope = |scope: &str| {
        load_file(&file(&format!("roles = [\"relay\"]\nscope = {scope:?}"))).config.listeners[0].scope.clone()
    };
    assert_eq!(scope("foo"), "foo");
    assert_eq!(scope("/bar/baz/"), "bar/baz");
    let error = error_of(&file("roles = [\"relay\"]\nscope = \"a b\""), &[], &[]);
    assert!(error.contains("listeners.a.scope"), "{error}");
    let error = error_of(&file("roles = [\"pair\"]\nscope = \"a\""), &[], &[]);
    assert!(error.contains("only for a listener with the role"), "{error}");
}

#[test]
fn tslm_settings_are_read_and_tokens_hidden() {
    let file = r#"
        [listeners.old]
        address = "127.0.0.1:0"
        roles = ["tslm"]
        default_endpoint_permissions = ["Subscribe", "NotifyChannel"]
        channels = ["chat.*"]
        auth_tokens = ["canary"]
        rate_limit_per_second = 5
    "#;
    let listener = &load_file(file).config.listeners[0];
    assert_eq!(listener.roles, [Role::Tslm].into());
    let tslm = &listener.tslm;
    assert_eq!((tslm.subscribe, tslm.create_channel, tslm.notify_channel), (true, false, true));
    assert_eq!((tslm.auth_tokens.len(), tslm.max_message_size, tslm.rate_limit_per_second), (1, 65_536, 5));
    assert!(!format!("{listener:?}").contains("canary"));
}

#[test]
fn tslm_size_above_channels_is_a_warning() {
    let warnings = |size: u64, more: &str| {
        let file = format!(
            "[listeners.a]\naddress = \"127.0.0.1:0\"\nroles = [\"tslm\"]\nmax_message_size = {size}\n\
             default_endpoint_permissions = [\"NotifyChannel\"]\nchannels = [\"*\"]\n{more}"
        );
        load_file(&file).warnings.into_iter().filter(|it| it.contains("max_message_size")).collect::<Vec<_>>()
    };
    assert!(warnings(65_536, "").is_empty());
    let found = warnings(65_537, "[[channels]]\nmatch = \"small\"\nmax_message_bytes = 10\n");
    assert!(matches!(&found[..], [one] if one.contains("small (10 bytes), * (65536 bytes)")), "{found:?}");
    assert!(warnings(1 << 30, "[channel_defaults]\nmax_message_bytes = 0\n").is_empty());
}

#[test]
fn publisher_key_is_text_file_or_hash() {
    let directory = TempDir::new();
    directory.write("a.pub", KEY);
    let hash = "SHA256:diYkNAb4rK3KZpOOAEx1ruje1LyUAgvehCCx0/f/Whw";
    let file = format!(
        "[publishers.a]\nkey = \"a.pub\"\nchannels = [\"*\"]\n[publishers.b]\nsha256 = \"{hash}\"\nchannels = [\"b\"]"
    );
    let publishers = load_in(&directory, &file, &[], &[]).unwrap().config.policy.publishers;
    assert!(matches!(publishers[0].key, Some(PublisherKey::Known(_))));
    assert_eq!(publishers[1].key.as_ref().unwrap().fingerprint().to_string(), hash);
    assert_eq!(publishers[0].rate_limit_per_second, None);
}

#[test]
fn publisher_password_is_a_warning() {
    let directory = TempDir::new();
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    directory.write("b.argon2", &format!("{hash}\n"));
    let file = format!(
        "[publishers.a]\nbasic = {{ username = \"a\", password_argon2 = \"{hash}\" }}\nchannels = [\"$flock:*\"]\n\
         [publishers.b]\nkey = \"{KEY}\"\nbasic = {{ username = \"b\", password_argon2 = \"b.argon2\" }}\nchannels = [\"*\"]"
    );
    let Loaded { config, warnings, .. } = load_in(&directory, &file, &[], &[]).unwrap();
    let [a, b] = &config.policy.publishers[..] else { panic!("two publishers") };
    assert!(a.key.is_none() && b.key.is_some());
    assert_eq!(b.basic.as_ref().unwrap().username, "b");
    let passwords: Vec<_> = warnings.iter().filter(|warning| warning.contains(".basic (")).collect();
    assert!(passwords.len() == 2 && passwords.iter().all(|warning| warning.contains("signed")), "{warnings:?}");
    assert!(!format!("{config:?}").contains("c29tZXNhbHQ"));
}

#[test]
fn expiry_is_parsed_and_past_is_a_warning() {
    let of = |not_after: &str| {
        let file = format!("[publishers.a]\nkey = \"{KEY}\"\nchannels = [\"a\"]\nnot_after = {not_after}");
        let loaded = load_file(&file);
        (loaded.config.policy.publishers[0].not_after.unwrap().to_string(), loaded.warnings.len())
    };
    assert_eq!(of("2099-12-31T00:00:00Z"), ("2099-12-31T00:00:00Z".to_owned(), 0));
    assert_eq!(of("\"2099-12-31T01:00:00+01:00\""), ("2099-12-31T00:00:00Z".to_owned(), 0));
    assert_eq!(of("\"2001-01-01T00:00:00Z\""), ("2001-01-01T00:00:00Z".to_owned(), 1));
}

#[test]
fn issuer_keys_are_read() {
    let directory = TempDir::new();
    let jwks =
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"1"}]}"#;
    directory.write("sso.json", jwks);
    let file = r#"
        [[issuers]]
        issuer = "https://sso.example.com"
        audience = "lastmile"
        jwks_file = "sso.json"
    "#;
    let loaded = load_in(&directory, file, &[], &[]).unwrap();
    let issuer = &loaded.config.policy.issuers[0];
    let KeySource::File { keys, changed } = &issuer.keys else { panic!("{:?}", issuer.keys) };
    assert_eq!((issuer.audiences.as_slice(), keys.keys.len()), (["lastmile".to_owned()].as_slice(), 1));
    assert!(*changed > 1_700_000_000 && issuer.keys_max_age_secs == 0);
    assert_eq!((issuer.algorithms.len(), issuer.leeway_secs, issuer.max_lifetime_secs), (3, 30, 86_400));
    assert_eq!(loaded.watched.len(), 2);
}

#[test]
fn issuer_key_urls_are_read() {
    let file = r#"
        egress_private_hosts = ["sso.corp.example", "10.0.0.7"]
        [[issuers]]
        issuer = "https://one.example/realm"
        audience = "lastmile"
        discovery = true
        [[issuers]]
        issuer = "https://two.example"
        audience = "lastmile"
        jwks_url = "https://keys.two.example/jwks"
        jwks_max_age_secs = 3600
    "#;
    let config = load_file(file).config;
    let [one, two] = &config.policy.issuers[..] else { panic!() };
    let KeySource::Remote(Remote::Discovery(endpoint)) = &one.keys else { panic!("{:?}", one.keys) };
    assert_eq!(endpoint.to_string(), "https://one.example/realm/.well-known/openid-configuration");
    let KeySource::Remote(Remote::KeySet(endpoint)) = &two.keys else { panic!("{:?}", two.keys) };
    assert_eq!(endpoint.to_string(), "https://keys.two.example/jwks");
    assert_eq!((one.keys_max_age_secs, two.keys_max_age_secs), (7 * 86_400, 3600));
    assert_eq!(config.fetch.as_ref().unwrap().private_hosts, ["sso.corp.example", "10.0.0.7"]);
    let text = explain(&config, None, None);
    assert!(text.contains("keys from https://keys.two.example/jwks"), "{text}");
    assert!(load_file("egress = \"none\"").config.fetch.is_none());
}

#[test]
fn policy_is_explained() {
    let loaded = load(&Sources { file: Some(shipped("lastmile.example.toml")), ..Sources::default() }).unwrap();
    let check = |channel: Option<&str>, publisher: Option<&str>, parts: &[&str]| {
        let text = explain(&loaded.config, channel, publisher);
        for part in parts {
            assert!(text.contains(part), "{part} in {text}");
        }
    };
    let prices =
        ["channels[0], match = \"prices.*\"", "anyone", "backlog: 100 messages, 300 s", "publishers: market-data"];
    check(Some("prices.btc"), None, &prices);
    check(Some("alerts.fire"), None, &["the scope \"alerts\" and a group of staff, on-call and tenant = \"acme\""]);
    check(Some("other"), None, &["channel_defaults", "any valid token", "publishers: none"]);
    check(Some("$sys"), None, &["reserved"]);
    let alerts = ["SHA256:diYkNAb4rK3KZpOOAEx1ruje1LyUAgvehCCx0/f/Whw", "alerts.*, status", "per second: 100"];
    check(None, Some("alerts"), &alerts);
    check(None, Some(alerts[0]), &["publisher alerts"]);
    check(None, Some("alert"), &["did you mean alerts?"]);
    check(
        None,
        None,
        &["listener public: 127.0.0.1:8080 without TLS, serves subscribe", "no issuers", "all other channels"],
    );
}

#[test]
fn geoip_is_off_by_default() {
    let directory = TempDir::new();
    directory.write("a.mmdb", "not opened by the check");
    directory.write("b.mmdb", "");
    assert_eq!(load_file("[geoip]\ndatabase = \"no.mmdb\"").config.geoip, None);
    let geoip = |lines: &str| {
        let loaded = load_in(&directory, &format!("[rooms]\ngeoip = true\n[geoip]\n{lines}"), &[], &[]).unwrap();
        (loaded.config.geoip.unwrap(), loaded.watched)
    };
    let (one, watched) = geoip("database = \"a.mmdb\"");
    assert_eq!((one.files.clone(), one.default_language), (vec![directory.path().join("a.mmdb")], Language::English));
    assert!(watched.contains(&one.files[0]));
    let (two, _) = geoip("database = [\"a.mmdb\", \"b.mmdb\"]\ndefault_language = \"pt-BR\"");
    assert_eq!((two.files.len(), two.default_language), (2, Language::Portuguese));
}

#[test]
fn statsd_host_and_port_are_parsed() {
    assert_eq!(load_file("").config.statsd, None);
    let statsd = |host: &str| {
        let config = load_file(&format!("[statsd]\nhost = {host:?}")).config.statsd.unwrap();
        assert_eq!(config.prefix, "lastmile");
        (config.host, config.port)
    };
    for (text, host, port) in [
        ("localhost", "localhost", 8125),
        ("stats.example.com:9125", "stats.example.com", 9125),
        ("192.0.2.1", "192.0.2.1", 8125),
        ("192.0.2.1:1", "192.0.2.1", 1),
        ("::1", "::1", 8125),
        ("[::1]", "::1", 8125),
        ("[::1]:9125", "::1", 9125),
    ] {
        assert_eq!(statsd(text), (host.to_owned(), port), "{text}");
    }
}

#[test]
fn memory_engine_warns_of_restarts() {
    let directory = TempDir::new();
    let (publisher, issuer) =
        (test_support::TestPublisher::new(), test_support::TestIssuer::new("https://a.example.com"));
    directory.write("a.json", &issuer.jwks());
    let control = format!(
        "{}control = true\n[[issuers]]\nissuer = \"https://a.example.com\"\naudience = \"a\"\njwks_file = \"a.json\"\n",
        publisher.toml("ops", &["*"])
    );
    let warnings =
        |engine: &str| load_in(&directory, &format!("{control}[engine]\n{engine}"), &[], &[]).unwrap().warnings;
    let of_memory = warnings("kind = \"memory\"");
    assert!(of_memory.iter().any(|warning| warning.contains("revocations_file")), "{of_memory:?}");
    for keeps in ["kind = \"disk\"\npath = \"store\"", "kind = \"memory\"\nledger = \"ledger\""] {
        assert_eq!(warnings(keeps), Vec::<String>::new());
    }
}
