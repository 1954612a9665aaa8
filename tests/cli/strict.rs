//! `lastmile check --strict`: shipped configurations are clean, and each dangerous setting has its reason.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use crate::support::{Running, Scratch, root};

fn mode(scratch: &Scratch, name: &str, mode: u32) {
    set_permissions(scratch.path(name), Permissions::from_mode(mode)).unwrap();
}

/// A warning of `check` and of `serve`, and an error with `--strict`.
#[track_caller]
fn expect_danger(scratch: &Scratch, text: &str, says: &str) {
    scratch.write("lastmile.toml", text);
    let args = ["check", "--config", "lastmile.toml", "--strict"];
    let ran = scratch.run(&args[..3]).ok();
    assert!(ran.stderr.lines().any(|line| line.contains("warning: ") && line.contains(says)), "{says}: {ran:?}");
    let ran = scratch.run(args).failed(64, "refused by --strict");
    assert!(ran.stderr.contains(says), "{ran:?}");
}

fn listener(lines: &str) -> String {
    format!("[listeners.a]\naddress = \"0.0.0.0:0\"\n{lines}\n")
}

#[test]
fn shipped_configurations_are_strict() {
    for file in ["config/lastmile.example.toml", "docker/lastmile.toml", "docker/cluster/lastmile.toml"] {
        let scratch = Scratch::new();
        let password = scratch.write("redis-password", "a secret\n");
        mode(&scratch, "redis-password", 0o600);
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let text = text.replace("/run/secrets/redis-password", password.to_str().unwrap());
        scratch.run(["keygen", "--seal", "-o", "cluster-key"]).ok();
        let text = text.replace("/run/secrets/cluster-key", scratch.path("cluster-key").to_str().unwrap());
        scratch.write("lastmile.toml", &text);
        let ran = scratch.run(["check", "--strict", "--config", "lastmile.toml"]).ok();
        assert!(!ran.stderr.contains("warning"), "{file}: {ran:?}");
    }
    // So are the settings without a file, and the unit's own check.
    Scratch::new().run(["check", "--strict"]).ok();
    let unit = std::fs::read_to_string(root().join("docker/lastmile.service")).unwrap();
    assert!(unit.contains("ExecStartPre=/usr/local/bin/lastmile check --config /etc/lastmile/lastmile.toml\n"));
}

#[test]
fn each_danger_has_its_reason() {
    let scratch = Scratch::new();
    let (_, key) = scratch.key("p");
    let names = "hosts = [\"gw.internal:8081\"]\nplaintext = true";
    for (text, says) in [
        (listener("roles = [\"ops\", \"subscribe\"]\nplaintext = true"), "listeners.a.roles"),
        (listener("roles = [\"ops\", \"login\"]\nplaintext = true"), "listeners.a.roles"),
        (listener("roles = [\"ops\"]\nplaintext = true"), "metrics cross the network in plain text"),
        (listener(&format!("roles = [\"publish\"]\n{names}")), "listeners.a.plaintext"),
        (listener("roles = [\"flock-publish\"]\nplaintext = true"), "passwords if there are any"),
        (listener("roles = [\"tslm\"]\nplaintext = true"), "listeners.a.auth_tokens"),
        (
            listener("roles = [\"flock\"]\nsubscribers = \"authenticated\"\nplaintext = true"),
            "counts as one with a token",
        ),
        (
            listener("roles = [\"relay\"]\nplaintext = true\n[rooms]\nmax_rooms_per_address = 0"),
            "rooms.max_rooms_per_address",
        ),
        ("[listeners.a]\naddress = \"unix:a.sock\"\nroles = [\"publish\"]\n".to_owned(), "listeners.a.hosts"),
        (
            format!("trusted_proxies = [\"0.0.0.0/0\"]\n[publishers.p]\n{key}\nchannels = [\"a\"]\n"),
            "trusted_proxies[0]",
        ),
    ] {
        expect_danger(&scratch, &text, says);
    }
    // `serve` logs the same reasons.
    let text = listener("roles = [\"ops\"]\nplaintext = true");
    scratch.write("lastmile.toml", &text);
    let running = Running::start(scratch.lastmile(["serve", "--config", "lastmile.toml"]));
    let line = running.stderr.wait_for("metrics cross the network in plain text");
    assert!(line.contains("WARN"), "{line}");
}

#[test]
fn open_files_are_dangers() {
    let scratch = Scratch::new();
    let (_, _) = scratch.key("p");
    let line = std::fs::read_to_string(scratch.path("p.key.pub")).ok();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    scratch.write("tls.pem", &certificate.cert.pem());
    scratch.write("tls.key", &certificate.signing_key.serialize_pem());
    mode(&scratch, "tls.key", 0o600);
    scratch.write("sso.json", r#"{"keys":[]}"#);
    let mut text = "[listeners.a]\naddress = \"127.0.0.1:0\"\nroles = [\"subscribe\"]\n\
                    tls = { certificate = \"tls.pem\", key = \"tls.key\" }\n"
        .to_owned();
    let mut files = vec!["lastmile.toml", "tls.pem", "tls.key"];
    if line.is_some() {
        text.push_str("[publishers.p]\nkey = \"p.key.pub\"\nchannels = [\"a\"]\n");
        files.push("p.key.pub");
    }
    scratch.write("lastmile.toml", &text);
    let strict = || scratch.run(["check", "--strict", "--config", "lastmile.toml"]);
    strict().ok();
    for file in files {
        let before = std::fs::metadata(scratch.path(file)).unwrap().permissions();
        mode(&scratch, file, before.mode() & 0o777 | 0o002);
        let ran = strict().failed(64, "may change the file or replace it");
        assert!(ran.stderr.contains(file), "{ran:?}");
        set_permissions(scratch.path(file), before).unwrap();
        strict().ok();
    }
    // A file in an open directory can be replaced, unless only its owner may.
    mode(&scratch, ".", 0o777);
    strict().failed(64, "may change the file or replace it");
    mode(&scratch, ".", 0o1777);
    strict().ok();
    mode(&scratch, "tls.key", 0o644);
    strict().failed(64, "readable by every user");
    mode(&scratch, "tls.key", 0o600);
    let tokens = "[listeners.a]\naddress = \"127.0.0.1:0\"\nroles = [\"tslm\"]\nauth_tokens = [\"canary\"]\n";
    scratch.write("lastmile.toml", tokens);
    mode(&scratch, "lastmile.toml", 0o644);
    let ran = strict().failed(64, "holds secrets");
    assert!(!ran.stderr.contains("canary"), "{ran:?}");
    mode(&scratch, "lastmile.toml", 0o600);
    strict().ok();
}

#[test]
fn secrets_in_wrong_places_are_hidden() {
    let scratch = Scratch::new();
    let sealed = scratch.run(["keygen", "--seal", "-o", "seal.key"]).ok();
    assert!(!sealed.stdout.contains("lastmile-seal:"));
    let seal = std::fs::read_to_string(scratch.path("seal.key")).unwrap().trim().to_owned();
    let hidden = |ran: crate::support::Ran, source: &str| {
        let ran = ran.failed(64, source);
        for secret in ["hunter2", &seal, &seal[seal.len() - 20..]] {
            assert!(!ran.stderr.contains(secret) && !ran.stdout.contains(secret), "{secret}: {ran:?}");
        }
    };
    for (text, source) in [
        ("[publishers.p]\nchannels = [\"a\"]\nbasic = { username = \"u\", password_argon2 = \"hunter2\" }", "line 3"),
        ("[publishers.p]\nchannels = [\"a\"]\nbasic = { username = \"u\", password_argon2 = \"$hunter2\" }", "line 3"),
        ("[publishers.p]\nchannels = [\"a\"]\nbasic = \"u:hunter2\"", "publishers.p.basic"),
        ("[publishers.p]\nchannels = [\"a\"]\nbasic = \"u:hunter2", "line 3"),
        ("publishers = [{ basic = { password_argon2 = \"hunter2\" } }]", "publishers"),
        ("[login]\nseal_keys = [\"hunter2\"]", "login.seal_keys[0]"),
        ("[login]\nseal_keys = { a = \"hunter2\" }", "login.seal_keys"),
        ("[login]\nurl = \"https://u:hunter2@live.example.com\"", "login.url"),
        ("login = \"lastmile-seal:hunter2\"", "login"),
        ("[engine]\nkind = \"redis\"\nurl = \"redis://:hunter2@a:b:c\"", "engine.url"),
        ("[engine]\nkind = \"redis\"\nurl = { a = \"redis://:hunter2@a\" }", "engine.url"),
        ("engine = \"redis://:hunter2@a\"", "engine"),
        ("[engine]\nkind = \"redis\"\nurl = \"redis://a\"\npassword_file = \"hunter2\"", "engine.password_file"),
        ("[engine]\nkind = \"redis\"\nurl = \"redis://a\"\npassword_file = [\"hunter2\"]", "engine.password_file"),
        ("[engine]\nkind = \"redis://:hunter2@a\"", "engine.kind"),
        ("[statsd]\nhost = \"u:hunter2@a\"", "statsd.host"),
        (
            "[listeners.a]\naddress = \"127.0.0.1:0\"\nroles = [\"tslm\"]\nauth_tokens = [\"hunter2\", \"\"]",
            "auth_tokens",
        ),
        ("listeners = [{ auth_tokens = [\"hunter2\"] }]", "listeners"),
        (
            "[listeners.a]\naddress = \"127.0.0.1:0\"\nroles = [\"subscribe\"]\npublic_url = \"https://u:hunter2@a\"",
            "public_url",
        ),
        (
            "[[issuers]]\nissuer = \"https://a\"\naudience = \"a\"\ndiscovery = true\n\
             login = { client_id = \"c\", client_secret_file = \"hunter2\" }\n[login]\nurl = \"https://a.example\"",
            "client_secret_file",
        ),
    ] {
        scratch.write("lastmile.toml", text);
        for command in ["check", "serve"] {
            hidden(scratch.run([command, "--config", "lastmile.toml"]), source);
        }
    }
    scratch.write("lastmile.toml", "");
    for setting in
        ["login.seal_keys", "statsd.host", "rooms.open", "engine.kind", "listeners.public.tls.key", "nothing"]
    {
        let set = format!("{setting}=[\"{seal}\"]");
        hidden(scratch.run(["check", "--config", "lastmile.toml", "--set", &set]), setting);
        hidden(scratch.run(["check", "--config", "lastmile.toml", "--set", &format!("{setting}={seal}")]), setting);
    }
    let mut command = scratch.lastmile(["check", "--config", "lastmile.toml"]);
    let ran = command.env("LASTMILE_LOGIN__SEAL_KEYS", &seal).output().unwrap();
    hidden(ran.into(), "LASTMILE_LOGIN__SEAL_KEYS");
}
