//! Precedence of the sources, and the names of settings in each.

use super::*;

fn max_connections(file: &str, env: &[(&str, &str)], set: &[&str]) -> u64 {
    load_all(file, env, set).unwrap().config.limits.transport.max_connections
}

#[test]
fn flag_beats_variable_beats_file_beats_default() {
    let file = "[limits]\nmax_connections = 1";
    let env = [("LASTMILE_LIMITS__MAX_CONNECTIONS", "2")];
    let set = ["limits.max_connections=3"];
    assert_eq!(max_connections("", &[], &[]), 100_000);
    assert_eq!(max_connections(file, &[], &[]), 1);
    assert_eq!(max_connections(file, &env, &[]), 2);
    assert_eq!(max_connections(file, &env, &set), 3);
    assert_eq!(max_connections(file, &[], &set), 3);
    assert_eq!(max_connections(file, &[], &["limits.max_connections=3", "limits.max_connections=4"]), 4);
}

#[test]
fn flag_beats_variable_for_file() {
    let directory = TempDir::new();
    let one = directory.write("one.toml", "[limits]\nmax_connections = 1");
    let two = directory.write("two.toml", "[limits]\nmax_connections = 2");
    let env = vec![("LASTMILE_CONFIG".to_owned(), one.display().to_string())];
    let by_variable = load(&Sources { file: None, env: env.clone(), set: Vec::new() }).unwrap();
    let by_flag = load(&Sources { file: Some(two.clone()), env, set: Vec::new() }).unwrap();
    assert_eq!(by_variable.config.limits.transport.max_connections, 1);
    assert_eq!(by_variable.watched, [one]);
    assert_eq!(by_flag.config.limits.transport.max_connections, 2);
    assert_eq!(by_flag.watched, [two]);
}

#[test]
fn default_listeners_are_on_loopback() {
    let loaded = load(&Sources::default()).unwrap();
    let listeners: Vec<_> =
        loaded.config.listeners.iter().map(|listener| (listener.name.as_str(), listener.address.to_string())).collect();
    let expected = [("ops", "127.0.0.1:8082"), ("public", "127.0.0.1:8080"), ("publish", "127.0.0.1:8081")];
    assert_eq!(listeners, expected.map(|(name, address)| (name, address.to_owned())));
    assert!(loaded.watched.is_empty());
}

#[test]
fn file_replaces_default_listeners() {
    let names = |loaded: Loaded| loaded.config.listeners.into_iter().map(|listener| listener.name).collect::<Vec<_>>();
    let file = "[listeners.inside]\naddress = \"127.0.0.1:0\"\nroles = [\"publish\"]";
    assert_eq!(names(load_file(file)), ["inside"]);
    let env = [("LASTMILE_LISTENERS__PUBLIC__ADDRESS", "127.0.0.1:9000")];
    let loaded = load_all("", &env, &[]).unwrap();
    let public = loaded.config.listeners.iter().find(|listener| listener.name == "public").unwrap();
    assert_eq!(public.address.to_string(), "127.0.0.1:9000");
    assert_eq!(public.roles.len(), 3);
    assert_eq!(names(loaded), ["ops", "public", "publish"]);
}

#[test]
fn variables_are_typed_by_setting() {
    let env = [
        ("LASTMILE_LISTENERS__PUBLIC__ORIGINS", "https://a.example, https://b.example"),
        ("LASTMILE_LISTENERS__PUBLIC__PROXY_PROTOCOL", "true"),
        ("LASTMILE_TRUSTED_PROXIES", "10.0.0.0/8,::1"),
        ("LASTMILE_DRAIN__WINDOW_SECS", "2"),
        ("LASTMILE_CHANNEL_DEFAULTS__SUBSCRIBERS__SCOPE", "0012"),
        ("LASTMILE_PUBLISHERS__MARKET_DATA__KEY", KEY),
        ("LASTMILE_PUBLISHERS__MARKET_DATA__CHANNELS", "prices.*"),
        ("LASTMILE_CHANNELS__0__MATCH", "a"),
        ("LASTMILE_CHANNELS__1__MATCH", "b"),
        ("LASTMILE_CHANNELS__1__SUBSCRIBERS", "anyone"),
        ("PATH", "/bin"),
    ];
    let config = load_all("", &env, &[]).unwrap().config;
    let public = &config.listeners[1];
    assert_eq!(public.origins, ["https://a.example", "https://b.example"]);
    assert!(public.proxy_protocol);
    assert_eq!(config.limits.transport.trusted_proxies.len(), 2);
    assert_eq!(config.drain.window.as_secs(), 2);
    let default = &config.policy.channels.rules.default.subscribers;
    assert!(matches!(default, lastmile::broker::Audience::Matching(any) if any[0].scope.as_deref() == Some("0012")));
    assert_eq!(config.policy.publishers[0].name, "market_data");
    assert_eq!(config.policy.channels.rules.rules[1].subscribers, lastmile::broker::Audience::Anyone);
}

#[test]
fn variable_matches_name_ignoring_case_and_hyphens() {
    let file = format!("[publishers.Market-Data]\nkey = \"{KEY}\"\nchannels = [\"a\"]");
    let env = [("LASTMILE_PUBLISHERS__MARKET_DATA__RATE_LIMIT_PER_SECOND", "7")];
    let publishers = load_all(&file, &env, &[]).unwrap().config.policy.publishers;
    assert_eq!(publishers.len(), 1);
    assert_eq!((publishers[0].name.as_str(), publishers[0].rate_limit_per_second), ("Market-Data", Some(7)));
}

#[test]
fn flag_sets_value_in_list() {
    let file = "[[channels]]\nmatch = \"a\"\n[[channels]]\nmatch = \"b\"\nmax_connections = 5";
    let rules = load_all(file, &[], &["channels[1].max_connections=6"]).unwrap().config.policy.channels.rules.rules;
    assert_eq!(rules[1].limits.max_connections, 6);
    assert_eq!(rules[0].limits.max_connections, 100_000);
}

#[test]
fn files_are_found_beside_configuration() {
    let directory = TempDir::new();
    let key = directory.write("keys/a.pub", KEY);
    let file = "[publishers.a]\nkey = \"keys/a.pub\"\nchannels = [\"a\"]";
    let loaded = load_in(&directory, file, &[], &[]).unwrap();
    assert_eq!(loaded.watched, [directory.path().join("lastmile.toml"), key]);
    // The working directory has a `Cargo.toml` too, which is read first and holds no key.
    directory.write("Cargo.toml", KEY);
    let error = load_in(&directory, &file.replace("keys/a.pub", "Cargo.toml"), &[], &[]).unwrap_err().to_string();
    assert!(error.contains("publishers.a.key = \"Cargo.toml\""), "{error}");
}
