//! `serve` and `healthcheck`: starting, reloading, stopping.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::{Gateway, LISTENERS, Ran, Running, Scratch, get, until};

#[test]
fn bad_setting_exits_64_before_binding() {
    let scratch = Scratch::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // The port is in use: an attempt to bind it would fail with another message.
    scratch.write(
        "bad.toml",
        &format!(
            "[listeners.public]\naddress = \"{address}\"\nroles = [\"subscribe\"]\n[limits]\nmax_conections = 1\n"
        ),
    );
    let ran = scratch.run(["serve", "--config", "bad.toml"]).failed(64, "did you mean limits.max_connections");
    assert!(ran.stderr.contains("bad.toml"), "{ran:?}");
    let mut command = scratch.lastmile(["serve"]);
    let ran = Ran::from(command.env("LASTMILE_LIMITS__MAX_CONNECTIONS", "many").output().unwrap());
    ran.failed(64, "LASTMILE_LIMITS__MAX_CONNECTIONS");
    scratch.run(["serve", "--config", "missing.toml"]).failed(64, "missing.toml");
    scratch.run(["serve", "--nonsense"]).failed(64, "--nonsense");

    scratch.write("taken.toml", &format!("[listeners.public]\naddress = \"{address}\"\nroles = [\"subscribe\"]\n"));
    scratch.run(["serve", "--config", "taken.toml"]).failed(1, "listeners.public: cannot listen on");
}

#[test]
fn ready_file_names_listeners_and_is_removed() {
    let scratch = Scratch::new();
    scratch.write("gateway.toml", LISTENERS);
    let file = scratch.path("ready.json");
    // A file of an earlier process does not stand for this one.
    scratch.write("ready.json", "{}");
    let args = ["serve", "--config", "gateway.toml", "--ready-file", "ready.json"];
    let mut gateway = Gateway::of(Running::start(scratch.lastmile(args)));
    let read =
        || serde_json::from_slice::<serde_json::Value>(&fs::read(&file).ok()?).ok().filter(|urls| *urls != json!({}));
    let urls = until(read);
    assert_eq!(urls, json!({ "public": gateway.public, "publish": gateway.publish, "ops": gateway.ops }));
    assert_eq!(get(&gateway.ops, "/readyz").1, "ready\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    gateway.running.signal("TERM");
    assert_eq!(gateway.running.wait(), Some(0));
    let left: Vec<_> = fs::read_dir(scratch.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["gateway.toml"]);
}

#[test]
fn ready_file_names_tls_and_unix_listeners() {
    let scratch = Scratch::new();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    scratch.write("tls.pem", &certificate.cert.pem());
    let key = scratch.write("tls.key", &certificate.signing_key.serialize_pem());
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
    let socket = scratch.path("ops.sock").display().to_string();
    let config = format!(
        "[listeners.public]\naddress = \"127.0.0.1:0\"\nroles = [\"subscribe\"]\n\
         tls = {{ certificate = \"tls.pem\", key = \"tls.key\" }}\n[listeners.ops]\naddress = \"unix:{socket}\"\nroles = [\"ops\"]\n"
    );
    scratch.write("gateway.toml", &config);
    let args = ["serve", "--config", "gateway.toml", "--ready-file", "ready.json"];
    let _running = Running::start(scratch.lastmile(args));
    let urls = until(|| fs::read_to_string(scratch.path("ready.json")).ok());
    let urls: serde_json::Value = serde_json::from_str(&urls).unwrap();
    assert!(urls["public"].as_str().unwrap().starts_with("https://127.0.0.1:"), "{urls}");
    assert_eq!(urls["ops"], format!("unix:{socket}"));
}

#[test]
fn unusable_ready_file_is_exit_64_before_bind() {
    let scratch = Scratch::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // The port is taken: an attempt to bind it would fail with another message.
    scratch.write("gateway.toml", &format!("[listeners.public]\naddress = \"{address}\"\nroles = [\"subscribe\"]\n"));
    let run = |file| scratch.run(["serve", "--config", "gateway.toml", "--ready-file", file]);
    run("missing/ready.json").failed(64, "--ready-file missing/ready.json: ");
    run(".").failed(64, "--ready-file .: ");
}

#[test]
fn sigterm_and_ctrl_c_exit_0() {
    for signal in ["TERM", "INT"] {
        let scratch = Scratch::new();
        let mut gateway = Gateway::start(&scratch, "");
        until(|| (get(&gateway.ops, "/readyz").1 == "ready\n").then_some(()));
        gateway.running.signal(signal);
        gateway.running.stderr.wait_for("stopped");
        assert_eq!(gateway.running.wait(), Some(0));
    }
}

#[test]
fn healthcheck_reports_readiness() {
    let scratch = Scratch::new();
    let mut gateway = Gateway::start(&scratch, "");
    let url = format!("{}/readyz", gateway.ops);
    until(|| (scratch.run(["healthcheck", "--url", &url]).code == Some(0)).then_some(()));
    scratch.run(["healthcheck", "--url", &format!("{}/nothing", gateway.ops)]).failed(1, "404");
    scratch.run(["healthcheck", "--url", "https://127.0.0.1:1"]).failed(64, "--url");
    gateway.running.signal("TERM");
    assert_eq!(gateway.running.wait(), Some(0));
    scratch.run(["healthcheck", "--url", &url]).failed(1, &url);
}

fn publish(scratch: &Scratch, gateway: &Gateway, key: &str) -> Ran {
    scratch.run(["publish", "c", "1", "--url", &gateway.publish, "--key", key])
}

#[test]
fn sighup_reloads_the_whitelist() {
    let scratch = Scratch::new();
    let (_, one) = scratch.key("one");
    let (_, two) = scratch.key("two");
    let config = |key: &str| format!("{LISTENERS}[publishers.p]\n{key}\nchannels = [\"*\"]\n");
    let gateway = Gateway::start(&scratch, &config(&one)[LISTENERS.len()..]);
    publish(&scratch, &gateway, "one.key").ok();
    publish(&scratch, &gateway, "two.key").failed(1, "key-unknown");

    scratch.write("gateway.toml", &config(&two));
    gateway.running.signal("HUP");
    gateway.running.stderr.wait_for("\"reloaded\"");
    publish(&scratch, &gateway, "two.key").ok();
    publish(&scratch, &gateway, "one.key").failed(1, "key-unknown");

    // Both keys under two names: another length makes the change visible at any clock resolution.
    scratch.write("gateway.toml", &format!("{}[publishers.q]\n{one}\nchannels = [\"*\"]\n", config(&two)));
    gateway.running.stderr.wait_for("\"reloaded\"");
    publish(&scratch, &gateway, "one.key").ok();
    publish(&scratch, &gateway, "two.key").ok();
}

#[test]
fn changed_key_file_is_reloaded() {
    let scratch = Scratch::new();
    let (_, one) = scratch.key("one");
    let (_, two) = scratch.key("two");
    let line = |key: &str| key.split('"').nth(1).unwrap().to_owned();
    scratch.write("p.pub", &line(&one));
    let gateway = Gateway::start(&scratch, "[publishers.p]\nkey = \"p.pub\"\nchannels = [\"*\"]\n");
    publish(&scratch, &gateway, "one.key").ok();
    scratch.write("p.pub", &format!("{} and a longer comment\n", line(&two)));
    gateway.running.stderr.wait_for("\"reloaded\"");
    publish(&scratch, &gateway, "two.key").ok();
}

#[test]
fn bad_file_keeps_previous_configuration() {
    let scratch = Scratch::new();
    let (_, key) = scratch.key("one");
    let rest = format!("[publishers.p]\n{key}\nchannels = [\"*\"]\n");
    let gateway = Gateway::start(&scratch, &rest);
    scratch.write("gateway.toml", &format!("{LISTENERS}[publishers.p]\nkey = \"no key\"\nchannels = []\n"));
    gateway.running.signal("HUP");
    let line = gateway.running.stderr.wait_for("reload failed");
    assert!(line.contains("publishers.p.key"), "{line}");
    publish(&scratch, &gateway, "one.key").ok();
    assert!(get(&gateway.ops, "/metrics").1.contains("lastmile_reload_failures_total 1"));

    // A valid file is loaded again.
    scratch.write("gateway.toml", &format!("{LISTENERS}{rest}# mended\n"));
    gateway.running.stderr.wait_for("\"reloaded\"");
    publish(&scratch, &gateway, "one.key").ok();
}

#[test]
fn channel_rules_are_reloaded() {
    let scratch = Scratch::new();
    let (_, key) = scratch.key("one");
    let rest = |bytes: u32| {
        format!("[publishers.p]\n{key}\nchannels = [\"*\"]\n[[channels]]\nmatch = \"c\"\nmax_message_bytes = {bytes}\n")
    };
    let gateway = Gateway::start(&scratch, &rest(4));
    let long = || scratch.run(["publish", "c", "123456", "--url", &gateway.publish, "--key", "one.key"]);
    long().failed(1, "message_too_large");
    scratch.write("gateway.toml", &format!("{LISTENERS}{}", rest(100)));
    gateway.running.signal("HUP");
    gateway.running.stderr.wait_for("\"reloaded\"");
    long().ok();
}

#[test]
fn help_has_examples_for_each_command() {
    let scratch = Scratch::new();
    let help = scratch.run(["--help"]).ok().stdout;
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let names: Vec<_> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        let help = scratch.run([name, "--help"]).ok().stdout;
        assert!(help.contains(&format!("Examples:\n  lastmile {name}")), "{name}: {help}");
    }
}
