//! Mistakes: each message names key, value, source and a valid example.

use super::*;

/// Checks that the message of a mistake in the file holds all parts.
#[track_caller]
fn file(text: &str, parts: &[&str]) {
    expect(&error_of(text, &[], &[]), parts);
}

#[track_caller]
fn variable(name: &str, value: &str, parts: &[&str]) {
    expect(&error_of("", &[(name, value)], &[]), parts);
}

#[track_caller]
fn flag(set: &str, parts: &[&str]) {
    expect(&error_of("", &[], &[set]), parts);
}

#[track_caller]
fn expect(message: &str, parts: &[&str]) {
    assert!(message.starts_with("1 mistake in the configuration:\n  "), "{message}");
    for part in parts {
        assert!(message.contains(part), "no {part:?} in:\n{message}");
    }
}

/// The same for a line of a listener.
#[track_caller]
fn listener(line: &str, parts: &[&str]) {
    let rest = ["address = \"127.0.0.1:0\"", "roles = [\"subscribe\"]"];
    let key = |line: &str| line.split('=').next().unwrap_or("").trim().to_owned();
    let rest: Vec<_> = rest.into_iter().filter(|other| key(other) != key(line)).collect();
    file(&format!("[listeners.a]\n{line}\n{}", rest.join("\n")), parts);
}

#[track_caller]
fn publisher(lines: &str, parts: &[&str]) {
    file(&format!("[publishers.a]\n{lines}"), parts);
}

#[track_caller]
fn issuer(lines: &str, parts: &[&str]) {
    let directory = TempDir::new();
    directory.write("private.json", r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","d":"AA"}]}"#);
    directory.write("shared.json", r#"{"keys":[{"kty":"oct","k":"AA"}]}"#);
    directory.write("empty.json", r#"{"keys":[]}"#);
    directory.write("good.json", r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}"#);
    let good = ["issuer = \"i\"", "audience = \"a\"", "jwks_file = \"good.json\""];
    let rest: Vec<_> = good.into_iter().filter(|line| !lines.contains(line.split(' ').next().unwrap())).collect();
    let text = format!("[[issuers]]\n{lines}\n{}", rest.join("\n"));
    expect(&load_in(&directory, &text, &[], &[]).unwrap_err().to_string(), parts);
}

#[test]
fn syntax_errors_show_line() {
    file("[limits]\nmax_connections = = 1", &["lastmile.toml", "line 2", "^"]);
    file("[limits]\nping_secs = 99999999999999999999", &["line 2", "ping_secs = 9999", "^"]);
    file("[limits]\na = 1\na = 2", &["lastmile.toml", "line 3", "duplicate key"]);
    let missing = load(&Sources { file: Some("/nowhere/a.toml".into()), ..Sources::default() }).unwrap_err();
    expect(&missing.to_string(), &["/nowhere/a.toml", "cannot be read"]);
}

#[test]
fn unknown_keys_get_suggestions() {
    let in_limits = ["limits.max_conections", "lastmile.toml, line 2", "did you mean limits.max_connections?"];
    file("[limits]\nmax_conections = 1", &in_limits);
    file("[limit]\nping_secs = 1", &["limit (", "line 1", "did you mean limits?"]);
    file("max_fragments = 1", &["did you mean limits.max_fragments?"]);
    listener("role = [\"ops\"]", &["listeners.a.role ", "did you mean listeners.a.roles?"]);
    file("[[channels]]\nmatch = \"a\"\nbacklog_message = 1", &["did you mean channels[0].backlog_messages?"]);
    file("qqq = 1", &["qqq (", "no such setting"]);
    assert!(!error_of("[limits]\nfoo_bar_baz = 1", &[], &[]).contains("did you mean"));
}

#[test]
fn unknown_variables_and_flags_get_suggestions() {
    let meant = "did you mean LASTMILE_LIMITS__MAX_CONNECTIONS?";
    variable("LASTMILE_LIMITS__MAX_CONECTIONS", "1", &["LASTMILE_LIMITS__MAX_CONECTIONS", meant]);
    variable("LASTMILE_LIMITS_MAX_CONNECTIONS", "1", &[meant]);
    variable("LASTMILE_LISTENERS_PUBLIC_ADDRESS", "x", &["did you mean LASTMILE_LISTENERS__PUBLIC__ADDRESS?"]);
    variable("LASTMILE_PUBLISHER__NEW__CHANNELS", "x", &["did you mean LASTMILE_PUBLISHERS__NEW__CHANNELS?"]);
    variable("LASTMILE_LIMITS", "1", &["LASTMILE_LIMITS", "a table", "one by one"]);
    variable("LASTMILE_CHANNELS__99999999__MATCH", "a", &["no such setting"]);
    flag("limits.max_conections=1", &["flag --set limits.max_conections", "did you mean limits.max_connections?"]);
    flag("limits.max_connections", &["flag --set", "limits.max_connections=1000"]);
}

#[test]
fn wrong_types_are_reported_with_source() {
    let whole = "must be a whole number";
    file("[limits]\nping_secs = \"soon\"", &["limits.ping_secs = \"soon\"", "lastmile.toml, line 2", whole]);
    file("[limits]\nping_secs = -1", &["limits.ping_secs = -1", whole]);
    file("[limits]\nping_secs = 1.5", &["limits.ping_secs = 1.5", whole]);
    file("limits = 1", &["limits = 1", "must be a table"]);
    file("[[channels]]\nmatch = 5", &["channels[0].match = 5", "line 2", "must be a string"]);
    listener("roles = \"subscribe\"", &["listeners.a.roles = \"subscribe\"", "must be a list of strings"]);
    listener("hosts = [\"a\", 5, \"b\"]", &["listeners.a.hosts[1] = 5", "must be a string"]);
    listener("plaintext = \"yes\"", &["listeners.a.plaintext = \"yes\"", "must be true or false"]);
    let source = "environment variable LASTMILE_LIMITS__PING_SECS";
    variable("LASTMILE_LIMITS__PING_SECS", "soon", &["limits.ping_secs = \"soon\"", source, whole]);
    flag("limits.ping_secs=soon", &["limits.ping_secs = \"soon\"", "flag --set limits.ping_secs", whole]);
}

#[test]
fn strongest_source_is_named() {
    let text = "[limits]\nping_secs = \"file\"";
    let env = [("LASTMILE_LIMITS__PING_SECS", "env")];
    expect(&error_of(text, &env, &[]), &["limits.ping_secs = \"env\" (environment variable"]);
    expect(&error_of(text, &env, &["limits.ping_secs=flag"]), &["limits.ping_secs = \"flag\" (flag --set"]);
}

#[test]
fn numbers_out_of_range_are_refused() {
    file("[limits]\nmax_connections = 0", &["limits.max_connections = 0", "must be at least 1"]);
    file("[limits]\nmax_header_bytes = 100", &["limits.max_header_bytes = 100", "must be at least 8192"]);
    file("[limits]\nping_secs = 9000000000000", &["limits.ping_secs", "must be at most"]);
    file("[drain]\nwindow_secs = 15", &["drain.window_secs = 15", "must be less than deadline_secs, 15"]);
    flag("channel_defaults.max_connections=18446744073709551615", &["must be at most 4294967295"]);
}

#[test]
fn unknown_words_are_refused_with_list() {
    file("egress = \"non\"", &["egress = \"non\"", "\"configured\", \"none\"", "did you mean \"none\"?"]);
    file("[engine]\nkind = \"disc\"", &["engine.kind = \"disc\"", "did you mean \"disk\"?"]);
    file("[engine]\nkind = \"disk\"", &["engine.path", "must be the file that keeps the backlog"]);
    file("[engine]\nkind = \"disk\"\npath = \"/nowhere/store\"", &["engine.path", "a directory that exists"]);
    file("[engine]\nkind = \"disk\"\npath = \"/tmp\"", &["engine.path = \"/tmp\"", "must be a file"]);
    file("[engine]\nledger = \"/tmp\"", &["engine.ledger = \"/tmp\"", "must be a file"]);
    file(
        "[engine]\nkind = \"redis\"\nurl = \"redis://localhost\"\nledger = \"l\"",
        &["engine.ledger", "only with \"memory\""],
    );
    file("[engine]\npath = \"store\"", &["engine.path", "has no meaning with engine.kind = \"memory\""]);
    file("[engine]\nfsync = \"alway\"", &["engine.fsync = \"alway\"", "did you mean \"always\"?"]);
    file("[engine]\nmax_bytes = 1", &["engine.max_bytes = 1", "must be at least"]);
    file("[engine]\nkind = \"reddis\"", &["engine.kind = \"reddis\"", "did you mean \"redis\"?"]);
    file("[log]\nformat = \"JSON\"", &["log.format = \"JSON\"", "did you mean \"json\"?"]);
    file("[log]\nfilter = \"inof\"", &["log.filter = \"inof\"", "did you mean \"info\"?"]);
    listener("roles = [\"subscribes\"]", &["listeners.a.roles[0] = \"subscribes\"", "did you mean \"subscribe\"?"]);
    file("trusted_proxies = [\"10.0.0.0/99\"]", &["trusted_proxies[0] = \"10.0.0.0/99\"", "10.0.0.0/8"]);
}

#[test]
fn remote_redis_needs_cluster_key() {
    let load = |url: &str| {
        let text = format!("[engine]\nkind = \"redis\"\nurl = {url}\n");
        error_of(&text, &[], &[])
    };
    for remote in [
        "\"redis://redis.internal\"",
        "\"rediss://10.0.0.1:6379\"",
        "\"redis://localhost.example.com\"",
        "\"redis://[2001:db8::1]\"",
        "[\"redis://127.0.0.1:7000\", \"redis://10.0.0.1:7000\"]\ncluster = true",
    ] {
        expect(&load(remote), &["engine.cluster_key is not set", "lastmile keygen --seal"]);
    }
    for local in
        ["redis://127.0.0.1", "redis://127.9.9.9:1", "rediss://LOCALHOST", "redis://[::1]:6379", "unix:/run/redis.sock"]
    {
        let error = load(&format!("\"{local}\"\nunknown = 1"));
        assert!(!error.contains("cluster_key"), "{local}: {error}");
    }
}

#[test]
fn redis_is_checked_without_showing_passwords() {
    let redis = |text: &str, parts: &[&str]| {
        let text = format!("[engine]\nkind = \"redis\"\n{text}");
        let error = error_of(&text, &[], &[]);
        expect(&error, parts);
        assert!(!error.contains("secret"), "{error}");
    };
    redis("", &["engine.url is not set", "rediss://"]);
    redis("url = \"http://user:secret@localhost\"", &["engine.url", "line 3"]);
    redis(
        "url = [\"redis://:secret@localhost\", \"redis://:secret@localhost\"]",
        &["engine.url", "must be one address", "cluster"],
    );
    redis("url = \"redis://localhost\"\ncluster = true\nsentinel = \"m\"", &["engine.sentinel", "leave out one"]);
    redis("url = \"redis://localhost\"\nprefix = \"{a}\"", &["engine.prefix = \"{a}\""]);
    redis("url = \"redis://localhost\"\nca = \"nowhere\"", &["engine.ca", "cannot be read"]);
    redis("url = \"redis://localhost\"\npassword_file = \"nowhere\"", &["engine.password_file", "cannot be read"]);
    redis(
        "url = \"redis://:secret@localhost\"\npath = \"p\"",
        &["engine.path", "has no meaning", "only with \"disk\""],
    );
    redis("url = { secret = 1 }", &["engine.url"]);
    redis("url = \"redis://:secret@127.0.0.1\"\ncluster_key = \"nowhere\"", &["engine.cluster_key", "keygen --seal"]);
    redis("url = \"redis://127.0.0.1\"\nunauthenticated = \"acept\"", &["engine.unauthenticated", "\"accept\""]);
    redis("url = \"redis://127.0.0.1\"\nunauthenticated = \"accept\"", &["no meaning without engine.cluster_key"]);
    file("[engine]\nurl = \"redis://x\"", &["engine.url", "has no meaning", "only with \"redis\""]);
}

#[test]
fn plaintext_beyond_loopback_must_be_explicit() {
    let parts = ["listeners.a.address = \"0.0.0.0:8080\"", "line 2", "loopback", "tls", "plaintext = true"];
    listener("address = \"0.0.0.0:8080\"", &parts);
    let parts = ["\"0.0.0.0:80\"", "environment variable LASTMILE_LISTENERS__OPS__ADDRESS", "plaintext = true"];
    variable("LASTMILE_LISTENERS__OPS__ADDRESS", "0.0.0.0:80", &parts);
}

#[test]
fn listeners_are_checked() {
    listener("address = \"example.com:80\"", &["listeners.a.address = \"example.com:80\"", "127.0.0.1:8080"]);
    listener("address = \"127.0.0.1\"", &["listeners.a.address = \"127.0.0.1\"", "a port"]);
    listener("roles = [\"tslm\", \"ops\"]", &["listeners.a.roles", "\"tslm\" needs a listener of its own"]);
    listener("roles = [\"flock\", \"ops\"]", &["listeners.a.roles", "of their own"]);
    listener("auth_tokens = [\"canary\"]", &["listeners.a.auth_tokens", "role \"tslm\""]);
    listener("max_message_size = 65536", &["listeners.a.max_message_size", "role \"tslm\""]);
    listener("http2 = false", &["listeners.a.http2", "with tls"]);
    let compressing = "[listeners.a]\naddress = \"127.0.0.1:1\"\nroles = [\"ops\"]\ncompression = true\n";
    file(compressing, &["listeners.a.compression", "role \"subscribe\""]);
    for origin in ["https://a.example/", "a.example", "*", "https://A.example", "https://a.example:443", "null"] {
        listener(&format!("origins = [\"{origin}\"]"), &["listeners.a.origins[0]", origin, "https://app.example.com"]);
    }
    for url in [
        "live",
        "ftp://a",
        "https://A",
        "https://a/?x",
        "https://a//b",
        "https://a/../b",
        "https://a/v1",
        "https://a:443",
    ] {
        listener(&format!("public_url = {url:?}"), &["listeners.a.public_url", "https://example.com/live"]);
    }
    listener("channels = [\"a\"]", &["listeners.a.channels", "\"tslm\" or \"flock-publish\""]);
    for permission in ["CreateChannel", "NotifyChannel"] {
        let tslm = "[listeners.a]\naddress = \"127.0.0.1:0\"\nroles = [\"tslm\"]\ndefault_endpoint_permissions = ";
        file(&format!("{tslm}[\"{permission}\"]"), &["listeners.a.channels is not set", "may create and publish"]);
    }
    listener("proxy_protocol = true", &["listeners.a.proxy_protocol", "needs trusted_proxies"]);
    listener("hosts = [\"https://a\"]", &["listeners.a.hosts[0] = \"https://a\"", "live.example.com"]);
    listener("tls = { key = \"Cargo.toml\" }", &["listeners.a.tls.certificate is not set"]);
    let tls = "tls = { certificate = \"no.crt\", key = \"Cargo.toml\" }";
    listener(tls, &["listeners.a.tls.certificate = \"no.crt\"", "cannot be read"]);
    file("[listeners.a]\nroles = [\"ops\"]", &["listeners.a.address is not set", "line 1"]);
    file("[listeners.a]\naddress = \"127.0.0.1:0\"", &["listeners.a.roles is not set"]);
    file("[listeners.\"a b\"]\naddress = \"127.0.0.1:0\"\nroles = [\"ops\"]", &["listeners.\"a b\"", "letters"]);
    let duplicates = "[listeners.a]\naddress = \"127.0.0.1:1\"\nroles = [\"ops\"]\n[listeners.b]\naddress = \"127.0.0.1:1\"\nroles = [\"ops\"]";
    file(duplicates, &["listeners.b.address = \"127.0.0.1:1\"", "listeners.a"]);
}

#[test]
fn signatures_need_names_beyond_loopback() {
    let listener = |roles: &str, lines: &str| {
        format!("[listeners.a]\naddress = \"0.0.0.0:8081\"\nroles = [{roles}]\nplaintext = true\n{lines}\n")
    };
    let parts = ["listeners.a.hosts is not set", "a signature is valid for them alone"];
    file(&listener("\"publish\"", ""), &parts);
    file(&listener("\"publish\"", "hosts = []"), &parts);
    file(&listener("\"subscribe\", \"publish\"", ""), &parts);
    for role in ["\"pair\"", "\"relay\""] {
        file(&listener(role, "[rooms]\nopen = \"publisher\""), &parts);
        assert!(load_all(&listener(role, ""), &[], &[]).is_ok());
    }
    assert!(load_all(&listener("\"publish\"", "hosts = [\"gw:8081\"]"), &[], &[]).is_ok());
    assert!(load_all(&listener("\"publish\"", "public_url = \"https://gw.example\""), &[], &[]).is_ok());
    let env =
        [("LASTMILE_LISTENERS__PUBLISH__ADDRESS", "[::]:8081"), ("LASTMILE_LISTENERS__PUBLISH__PLAINTEXT", "true")];
    assert!(error_of("", &env, &[]).contains("listeners.publish.hosts"));
    assert!(
        load_all("", &[env[0], env[1], ("LASTMILE_LISTENERS__PUBLISH__HOSTS", "gw:8081,gw.internal")], &[]).is_ok()
    );
}

#[test]
fn patterns_tell_issuers_apart() {
    let with = |first: &str, second: &str, rule: &str| {
        format!(
            "[[issuers]]\nissuer = \"https://a.example\"\naudience = \"a\"\ndiscovery = true\n{first}\n\
             [[issuers]]\nissuer = \"https://b.example\"\naudience = \"a\"\ndiscovery = true\n{second}\n[[channels]]\n{rule}\n"
        )
    };
    let parts = ["channels[0].match", "several issuers", "{iss}"];
    for rule in [
        "match = \"user.{sub}\"",
        "match = \"{claim.tenant}.x\"",
        "match = \"user.{claim.iss}.{sub}\"",
        "match = \"user.{sub}\"\nsubscribers = { scope = \"s\" }",
        "match = \"user.{sub}\"\nsubscribers = [{ issuer = \"https://a.example\" }, { issuer = \"https://b.example\" }]",
        "match = \"user.{sub}\"\nsubscribers = [{ issuer = \"https://a.example\" }, { scope = \"s\" }]",
        "match = \"user.{sub}\"\ndeny = { issuer = \"https://a.example\", scope = \"s\" }",
    ] {
        file(&with("", "", rule), &parts);
    }
    file(&with("channels = [\"user.*\"]", "channels = [\"*.x\"]", "match = \"user.{sub}.x\""), &parts);
    for rule in [
        "match = \"user.{sub}\"\nsubscribers = { issuer = \"https://a.example\" }",
        "match = \"user.{sub}\"\ndeny = { issuer = \"https://a.example\" }",
        "match = \"user.*\"",
    ] {
        assert!(load_all(&with("", "", rule), &[], &[]).is_ok(), "{rule}");
    }
    let separate = with("channels = [\"user.*\"]", "channels = [\"partner.*\"]", "match = \"user.{sub}\"");
    assert!(load_all(&separate, &[], &[]).is_ok());
    let named = |first: &str, second: &str| with(first, second, "match = \"user.{iss}.{sub}\"");
    file(&named("name = \"a\"", ""), &["issuers[1].name is not set", "{iss}"]);
    file(&named("name = \"a\"", "name = \"a\""), &["issuers[1].name = \"a\"", "used twice"]);
    file(&named("name = \"a b\"", "name = \"b\""), &["issuers[0].name", "letters"]);
    assert!(load_all(&named("name = \"a\"", "name = \"b\""), &[], &[]).is_ok());
}

#[test]
fn publishers_are_checked() {
    let channels = "channels = [\"a\"]";
    publisher(channels, &["publishers.a.key is not set", "ssh-ed25519"]);
    publisher(&format!("key = \"{KEY}\""), &["publishers.a.channels is not set", "prices.*"]);
    publisher(&format!("key = \"no.pub\"\n{channels}"), &["publishers.a.key = \"no.pub\"", "cannot be read"]);
    publisher(&format!("key = \"{KEY}\"\nsha256 = \"x\"\n{channels}"), &["publishers.a.sha256", "with key"]);
    publisher(&format!("sha256 = \"MD5:x\"\n{channels}"), &["publishers.a.sha256 = \"MD5:x\"", "SHA256:"]);
    let when = format!("key = \"{KEY}\"\n{channels}\nnot_after = \"tomorrow\"");
    publisher(&when, &["publishers.a.not_after = \"tomorrow\"", "RFC 3339"]);
    let reserved = format!("key = \"{KEY}\"\nchannels = [\"ok\", \"$x\"]");
    publisher(&reserved, &["publishers.a.channels[1] = \"$x\"", "reserved"]);
    let basic = |content: &str| format!("basic = {{ {content} }}\n{channels}");
    let hash = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    publisher(&basic("username = \"u\""), &["publishers.a.basic.password_argon2 is not set", "lastmile password"]);
    let unhashed = basic("username = \"u\", password_argon2 = \"$hunter2\"");
    publisher(&unhashed, &["publishers.a.basic.password_argon2 = (not shown)", "Argon2id hash"]);
    let costly = basic(&format!("username = \"u\", password_argon2 = \"{}\"", hash.replace("m=8", "m=4000000")));
    publisher(&costly, &["publishers.a.basic.password_argon2 = (not shown)", "at most m="]);
    let colon = basic(&format!("username = \"u:v\", password_argon2 = \"{hash}\""));
    publisher(&colon, &["publishers.a.basic.username", "without a colon"]);
    let good = basic(&format!("username = \"u\", password_argon2 = \"{hash}\""));
    let duplicates = format!("{good}\n[publishers.b]\n{good}");
    publisher(&duplicates, &["publishers.b.basic.username", "publishers.a"]);
    let duplicates = format!("key = \"{KEY}\"\n{channels}\n[publishers.b]\nkey = \"{KEY}\"\n{channels}");
    publisher(&duplicates, &["publishers.b", "same key as publishers.a"]);
}

#[test]
fn issuers_are_checked() {
    issuer("issuer = \"\"", &["issuers[0].issuer is not set"]);
    issuer("audience = []", &["issuers[0].audience is not set"]);
    issuer("jwks_file = \"no.json\"", &["issuers[0].jwks_file = \"no.json\"", "cannot be read"]);
    issuer("jwks_file = \"private.json\"", &["issuers[0].jwks_file", "private key"]);
    issuer("jwks_file = \"shared.json\"", &["issuers[0].jwks_file", "shared secret"]);
    issuer("jwks_file = \"empty.json\"", &["issuers[0].jwks_file", "no keys"]);
    issuer("leeway_secs = 61", &["issuers[0].leeway_secs = 61", "must be at most 60"]);
    issuer("jwks_url = \"https://x\"", &["issuers[0]", "more than one of jwks_file, jwks_url and discovery"]);
    issuer("discovery = true", &["issuers[0]", "more than one of"]);
    let alone = |lines: &str, parts: &[&str]| file(&format!("[[issuers]]\naudience = \"a\"\n{lines}"), parts);
    alone("issuer = \"i\"", &["issuers[0].jwks_file is not set", "or set jwks_url or discovery"]);
    alone("issuer = \"i\"\ndiscovery = true", &["issuers[0].discovery", "an issuer that is a URL"]);
    alone("issuer = \"http://sso.example\"\ndiscovery = true", &["issuers[0].discovery", "must be https"]);
    alone("issuer = \"i\"\njwks_url = \"http://sso.example/\"", &["issuers[0].jwks_url", "must be https"]);
    alone("issuer = \"i\"\njwks_url = \"https://u:p@sso.example/\"", &["issuers[0].jwks_url", "user or password"]);
    issuer("groups_claim = \"/a~2\"", &["issuers[0].groups_claim = \"/a~2\"", "/realm_access/roles"]);
    issuer(
        "known_audiences = [\"x\"]\naudience = \"a\"",
        &["issuers[0].known_audiences", "only for an issuer with login"],
    );
    issuer("audience = \"a\"\naudience_claim = \"\"", &["issuers[0].audience_claim = \"\"", "the name of a claim"]);
    issuer("jwks_max_age_secs = 119", &["issuers[0].jwks_max_age_secs = 119", "at least 120"]);
}

#[test]
fn geoip_and_statsd_are_checked() {
    let on = "[rooms]\ngeoip = true\n[geoip]\n";
    file(&format!("{on}database = \"no.mmdb\""), &["geoip.database = \"no.mmdb\"", "line 4", "mmdb/fetch", "read"]);
    file(&format!("{on}database = [\"Cargo.toml\", \"src\"]"), &["geoip.database[1] = \"src\"", "directory"]);
    file(&format!("{on}database = []"), &["geoip.database = []", "MaxMind DB"]);
    file("[geoip]\ndefault_language = \"ge\"", &["geoip.default_language = \"ge\"", "\"de\"", "zh-CN"]);
    for host in ["a b", ":8125", "host:", "host:0", "host:x", "[::1", "http://host", "a:1:2"] {
        file(&format!("[statsd]\nhost = {host:?}"), &["statsd.host = ", "a port if it is not 8125"]);
    }
    file("[statsd]\nprefix = \"a:b\"", &["statsd.prefix = \"a:b\"", "letters"]);
}

#[test]
fn sealed_gateway_refuses_outgoing_connections() {
    file("egress = \"none\"\n[statsd]\nhost = \"a\"", &["statsd.host = \"a\"", "line 3", "egress = \"none\""]);
    let env = [("PAIR_STATSD_HOST", "a"), ("LASTMILE_EGRESS", "none")];
    expect(&error_of("", &env, &[]), &["statsd.host = \"a\"", "PAIR_STATSD_HOST", "egress"]);
    assert!(load_all("egress = \"none\"", &[("PAIR_STATSD_HOST", "")], &[]).is_ok());
    let sealed = "egress = \"none\"\negress_private_hosts = [\"a\"]\negress_ca = \"ca.pem\"\n[engine]\nkind = \"redis\"\n\
                  [[issuers]]\nissuer = \"https://a\"\naudience = \"a\"\ndiscovery = true\n\
                  [[issuers]]\nissuer = \"https://b\"\naudience = \"a\"\njwks_url = \"https://b/jwks\"";
    let settings =
        ["egress_private_hosts", "egress_ca", "issuers[0].discovery = true", "issuers[1].jwks_url", "engine.kind"];
    let error = error_of(sealed, &[], &[]);
    for setting in settings {
        let line = error.lines().find(|line| line.contains(setting) && line.contains("egress = \"none\""));
        assert!(line.is_some(), "{setting}: {error}");
    }
    file("egress_private_hosts = [\"a:1\"]", &["egress_private_hosts[0] = \"a:1\"", "without a port"]);
    file("egress_ca = \"missing.pem\"", &["egress_ca = \"missing.pem\"", "PEM"]);
}

#[test]
fn hmac_and_unsigned_tokens_are_refused() {
    issuer("algorithms = [\"ES256\", \"HS256\"]", &["issuers[0].algorithms[1] = \"HS256\"", "can also make one"]);
    issuer("algorithms = [\"none\"]", &["issuers[0].algorithms[0] = \"none\"", "not signed"]);
    issuer("algorithms = [\"NONE\"]", &["not signed"]);
    issuer("algorithms = []", &["issuers[0].algorithms = []", "at least one"]);
    issuer("algorithms = [\"ES265\"]", &["issuers[0].algorithms[0] = \"ES265\"", "did you mean \"ES256\"?"]);
}

#[test]
fn channels_are_checked() {
    file("[[channels]]\nmax_connections = 1", &["channels[0].match is not set", "prices.*"]);
    file("[[channels]]\nmatch = \"\"", &["channels[0].match = \"\"", "prices.*"]);
    let parts = ["channel_defaults.subscribers = \"everyone\"", "\"anyone\", \"authenticated\"", "scope, group, claim"];
    file("[channel_defaults]\nsubscribers = \"everyone\"", &parts);
    file("[channel_defaults]\nsubscribers = {}", &["channel_defaults.subscribers = {}", "\"authenticated\""]);
    file("[channel_defaults]\nslow_consumer = \"drop\"", &["slow_consumer = \"drop\"", "\"disconnect\", \"latest\""]);
    let claim = "[channel_defaults]\nsubscribers = { claim = { a = [1] } }";
    file(claim, &["channel_defaults.subscribers.claim.a = [1]", "must be a string"]);
}

#[test]
fn mistakes_are_reported_together() {
    let text = "egress = 1\n[limits]\nping_secs = 0\nfoo_bar_baz = 1\n[engine]\nkind = \"x\"";
    let message = error_of(text, &[("LASTMILE_QQQQQQQQ", "1")], &[]);
    assert!(message.starts_with("5 mistakes in the configuration:\n"), "{message}");
    assert_eq!(message.lines().count(), 6);
    let many: String = (0..50).map(|number| format!("unknown_{number} = 1\n")).collect();
    let message = error_of(&many, &[], &[]);
    assert!(message.starts_with("50 mistakes") && message.ends_with("… and 30 more"), "{message}");
    assert_eq!(message.lines().count(), 22);
}

#[test]
fn messages_hold_no_secrets() {
    let tslm = "[listeners.a]\naddress = \"127.0.0.1:0\"\nroles = [\"tslm\"]\n";
    let quiet = |text: String, env: &[(&str, &str)], set: &[&str]| {
        let message = error_of(&text, env, set);
        assert!(!message.contains("canary"), "{message}");
    };
    quiet(format!("{tslm}auth_tokens = \"canary\""), &[], &[]);
    quiet(format!("{tslm}auth_tokens = [\"canary\", \"\"]"), &[], &[]);
    quiet(format!("{tslm}auth_tokens = [\"canary\", 5]"), &[], &[]);
    quiet(format!("{tslm}auth_tokens = [\"canary\""), &[], &[]);
    quiet(format!("{tslm}auth_token = [\"canary\"]"), &[], &[]);
    quiet(String::new(), &[("LASTMILE_LISTENERS__PUBLIC__AUTH_TOKENS", "canary")], &[]);
    quiet(String::new(), &[("LASTMILE_LISTENERS__PUBLIC__AUTH_TOKEN", "canary")], &[]);
    quiet(String::new(), &[], &["listeners.public.auth_token=canary"]);
    quiet(String::new(), &[], &["canary"]);
    let private = "-----BEGIN PRIVATE KEY-----canary-----END PRIVATE KEY-----";
    quiet(format!("[publishers.a]\nkey = \"{private}\"\nchannels = [\"a\"]"), &[], &[]);
}

#[test]
fn unusable_login_is_refused() {
    let with = |top: &str, login: &str, issuer: &str| {
        format!(
            "{top}\n[login]\n{login}\n[[issuers]]\nissuer = \"https://a\"\naudience = \"a\"\ndiscovery = true\n\
             login = {{ client_id = \"c\", {issuer} }}"
        )
    };
    let url = "url = \"https://live.example.com\"";
    file(&with("", "", ""), &["login.url is not set", "https://live.example.com"]);
    for bad in
        ["http://live.example.com", "https://live.example.com/path", "https://LIVE.example.com", "live", "ws://a"]
    {
        file(&with("", &format!("url = {bad:?}"), ""), &["login.url = ", "must be"]);
    }
    file(&with("", &format!("{url}\nsession_secs = 0"), ""), &["login.session_secs = 0"]);
    file(
        &with("", &format!("{url}\nseal_keys = [\"missing\"]"), ""),
        &["login.seal_keys[0] = (not shown)", "keygen --seal"],
    );
    file(&with("", url, "client_secret_file = \"missing\""), &["login.client_secret_file = (not shown)"]);
    file(&with("", url, "scopes = [\"openid\", \"offline_access\"]"), &["offline_access", "refresh"]);
    file(&with("", url, "name = \"a b\""), &["issuers[0].login.name"]);
    let shared = with("", url, "").replace("client_id = \"c\"", "client_id = \"a\"");
    for audience in ["\"a\"", "[\"b\", \"a\"]"] {
        let shared = shared.replace("audience = \"a\"", &format!("audience = {audience}"));
        file(&shared, &["issuers[0].audience = \"a\"", "client_id", "typ = \"at+jwt\""]);
        let typ = |typ: &str| shared.replace("discovery", &format!("typ = \"{typ}\"\ndiscovery"));
        assert!(load_all(&typ("Application/AT+JWT"), &[], &[]).is_ok());
        file(&typ("JWT"), &["issuers[0].audience = \"a\""]);
    }
    let sealed = error_of(&with("egress = \"none\"", url, ""), &[], &[]);
    assert!(sealed.contains("issuers[0].login") && sealed.contains("send the token"), "{sealed}");
}
