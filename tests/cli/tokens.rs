//! `token`, `check --token`, and the ways to hand a token to `subscribe`.

use std::io::Write;
use std::process::Stdio;

use crate::support::{Gateway, LISTENERS, Ran, Scratch};

const ISSUER: &str = "https://app.example";

/// A key set of the key `issuer.key`, and the settings that go with it.
fn issuer(scratch: &Scratch) -> String {
    scratch.key("issuer");
    let jwks = scratch.run(["token", "--key", "issuer.key", "--jwks"]).ok();
    scratch.write("issuer.jwks.json", &jwks.stdout);
    format!(
        "[[issuers]]\nissuer = \"{ISSUER}\"\naudience = \"lastmile\"\njwks_file = \"issuer.jwks.json\"\n\
         [[channels]]\nmatch = \"alerts\"\nbacklog_messages = 10\n\
         subscribers = {{ scope = \"read\", group = [\"staff\"], claim = {{ tenant = \"acme\", level = 3 }} }}\n\
         [[channels]]\nmatch = \"members\"\nbacklog_messages = 10\nsubscribers = \"authenticated\"\n"
    )
}

fn token(scratch: &Scratch, more: &[&str]) -> String {
    let args = ["token", "--key", "issuer.key", "--issuer", ISSUER, "--subject", "alice"];
    scratch.run(args.iter().chain(more)).ok().stdout.trim_end().to_owned()
}

fn check(scratch: &Scratch, token: &str, more: &[&str]) -> Ran {
    let args = ["check", "--config", "gateway.toml", "--token", token];
    scratch.run(args.iter().chain(more))
}

#[test]
fn check_lists_allowed_channels() {
    let scratch = Scratch::new();
    let rest = issuer(&scratch);
    scratch.write("gateway.toml", &format!("{LISTENERS}{rest}"));
    let plain = token(&scratch, &[]);
    let output = check(&scratch, &plain, &[]).ok().stdout;
    assert!(output.contains("token of \"alice\""), "{output}");
    assert!(output.contains("  does not open channels \"alerts\": token does not meet subscribers"), "{output}");
    assert!(output.contains("  opens channels \"members\""), "{output}");

    let claims = ["--claim", "tenant=acme", "--claim", "level=3", "--group", "staff", "--scope", "read"];
    let full = token(&scratch, &claims);
    let output = check(&scratch, &full, &["--channel", "alerts"]).ok().stdout;
    assert!(output.contains("  opens channel \"alerts\""), "{output}");
    assert!(output.contains("groups: staff"), "{output}");
}

#[test]
fn check_explains_refused_token() {
    let scratch = Scratch::new();
    let rest = issuer(&scratch);
    scratch.write("gateway.toml", &format!("{LISTENERS}{rest}"));
    scratch.key("other");
    let good = token(&scratch, &[]);
    check(&scratch, &token(&scratch, &["--audience", "elsewhere"]), &[]).failed(1, "aud contains none");
    check(&scratch, &token(&scratch, &["--expires", "2d"]), &[]).failed(1, "max_lifetime_secs");
    let args = ["token", "--key", "other.key", "--issuer", ISSUER, "--subject", "alice"];
    check(&scratch, scratch.run(args).ok().stdout.trim(), &[]).failed(1, "no such key");
    check(&scratch, &good[..good.len() - 8], &[]).failed(1, "signature");
    let refused = check(&scratch, "a.b.c", &[]).failed(1, "the token is refused");
    assert!(!refused.stderr.contains("a.b.c"));
}

#[test]
fn check_reads_file_and_stdin() {
    let scratch = Scratch::new();
    let rest = issuer(&scratch);
    scratch.write("gateway.toml", &format!("{LISTENERS}{rest}"));
    let token = token(&scratch, &[]);
    scratch.write("token", &format!("{token}\n"));
    scratch.run(["check", "--config", "gateway.toml", "--token-file", "token"]).ok();
    check(&scratch, "@token", &[]).ok();
    check(&scratch, "@nowhere", &[]).failed(64, "nowhere");
    for flag in ["--token-file", "--token"] {
        let mut command = scratch.lastmile(["check", "--config", "gateway.toml", flag, "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
        Ran::from(child.wait_with_output().unwrap()).ok();
    }
}

#[test]
fn check_covers_templates_and_revocations() {
    let scratch = Scratch::new();
    let rest = issuer(&scratch);
    let rules = "[[channels]]\nmatch = \"user.{sub}\"\n[[channels]]\nmatch = \"t.{tenant}\"\n\
                 [[channels]]\nmatch = \"d\"\ndeny = { group = \"leavers\" }\n";
    scratch.write("gateway.toml", &format!("revocations_file = \"revoked\"\n{LISTENERS}{rest}{rules}"));
    scratch.write("revoked", "");
    let token = token(&scratch, &["--group", "leavers"]);
    let output = check(&scratch, &token, &[]).ok().stdout;
    assert!(output.contains("  opens channels \"user.{sub}\": \"user.alice\""), "{output}");
    assert!(output.contains("  does not open channels \"t.{tenant}\": the token lacks a claim"), "{output}");
    assert!(output.contains("  does not open channels \"d\": token matches deny"), "{output}");
    let output = check(&scratch, &token, &["--channel", "user.bob"]).ok().stdout;
    assert!(output.contains("does not open channel \"user.bob\": claims of the token do not match"), "{output}");
    let line = format!("{{\"issuer\":\"{ISSUER}\",\"subject\":\"alice\",\"before\":{}}}", 1u64 << 20);
    scratch.write("revoked", &line);
    check(&scratch, &token, &[]).ok();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    scratch.write("revoked", &line.replace("1048576", &now.to_string()));
    check(&scratch, &token, &[]).failed(1, "revocations_file");
}

#[test]
fn token_from_flag_file_or_environment() {
    let scratch = Scratch::new();
    let (_, key) = scratch.key("p");
    let rest = format!("[publishers.p]\n{key}\nchannels = [\"members\"]\n{}", issuer(&scratch));
    let gateway = Gateway::start(&scratch, &rest);
    scratch.run(["publish", "members", "1", "--url", &gateway.publish, "--key", "p.key"]).ok();
    let token = token(&scratch, &["--expires", "5m"]);
    scratch.write("token", &token);
    let subscribe = |more: &[&str], variable: &str| {
        let args = ["subscribe", "members", "--backlog", "1", "--count", "1", "--url", &gateway.public];
        let mut command = scratch.lastmile(args.iter().chain(more));
        Ran::from(command.env("LASTMILE_TOKEN", variable).output().unwrap())
    };
    subscribe(&["--token", &token], "").ok();
    subscribe(&["--token-file", "token"], "a.b.c").ok();
    subscribe(&[], &token).ok();
    subscribe(&[], "").failed(1, "unauthenticated");
}

#[test]
fn token_variable_is_no_setting() {
    let scratch = Scratch::new();
    let mut command = scratch.lastmile(["check"]);
    Ran::from(command.env("LASTMILE_TOKEN", "x").output().unwrap()).ok();
    let mut command = scratch.lastmile(["check"]);
    Ran::from(command.env("LASTMILE_TOKENS", "x").output().unwrap()).failed(64, "LASTMILE_TOKENS: no such setting");
}

#[test]
fn foreign_keys_and_bad_requests_fail() {
    let scratch = Scratch::new();
    let genpkey = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"];
    let mut openssl = std::process::Command::new("openssl");
    assert!(openssl.args(genpkey).arg(scratch.path("ec.key")).stderr(Stdio::null()).status().unwrap().success());
    let jwks = scratch.run(["token", "--key", "ec.key", "--jwks"]).ok();
    assert!(jwks.stdout.contains("\"ES256\"") && !jwks.stdout.contains("\"d\""), "{jwks:?}");
    let token = |more: &[&str]| scratch.run(["token", "--key", "ec.key"].iter().chain(more));
    token(&["--issuer", "i"]).failed(64, "--subject");
    token(&["--issuer", "i", "--subject", "s", "--claim", "sub=x"]).failed(64, "already set");
    token(&["--issuer", "i", "--subject", "s", "--expires", "soon"]).failed(64, "15m");
    scratch.run(["token", "--key", "none", "--issuer", "i", "--subject", "s"]).failed(64, "No such file");
}
