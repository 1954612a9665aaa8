//! `egress = "none"`: the gateway opens no connection, and new keys arrive as files.

use std::process::Command;

use crate::support::{Gateway, LISTENERS, Running, Scratch, until};

const ISSUER: &str = "https://sso.example";

/// The key set of a new key `NAME.key`, in the form of a file.
fn key_set(scratch: &Scratch, name: &str) -> String {
    let (file, _) = scratch.key(name);
    scratch.run(["token", "--key", &file, "--jwks"]).ok().stdout
}

fn token(scratch: &Scratch, name: &str) -> String {
    let key = format!("{name}.key");
    let args = ["token", "--key", &key, "--issuer", ISSUER, "--subject", "alice"];
    scratch.run(args).ok().stdout.trim().to_owned()
}

fn rest(scratch: &Scratch) -> String {
    let (_, key) = scratch.key("p");
    scratch.write("sso.json", &key_set(scratch, "one"));
    format!(
        "[publishers.p]\n{key}\nchannels = [\"*\"]\n[channel_defaults]\nbacklog_messages = 10\n\
         [[issuers]]\nissuer = \"{ISSUER}\"\naudience = \"lastmile\"\njwks_file = \"sso.json\"\n"
    )
}

/// Whether a token is good for a subscription: the backlog comes.
fn receives_backlog(scratch: &Scratch, url: &str, token: &str) -> bool {
    let mut command = scratch.lastmile(["subscribe", "c", "--backlog", "1", "--url", url]);
    let mut subscriber = Running::start({
        command.env("LASTMILE_TOKEN", token);
        command
    });
    let received = subscriber.stdout.next().is_some();
    subscriber.signal("INT");
    subscriber.wait();
    received
}

#[test]
fn changed_key_set_needs_no_signal() {
    let scratch = Scratch::new();
    let gateway = Gateway::start(&scratch, &rest(&scratch));
    scratch.run(["publish", "c", "1", "--url", &gateway.publish, "--key", "p.key"]).ok();
    let one = token(&scratch, "one");
    assert!(receives_backlog(&scratch, &gateway.public, &one));
    // Another length makes the change visible at any clock resolution.
    let two = key_set(&scratch, "two");
    scratch.write("sso.json", &format!("{two} \n"));
    gateway.running.stderr.wait_for("\"reloaded\"");
    assert!(receives_backlog(&scratch, &gateway.public, &token(&scratch, "two")));
    assert!(!receives_backlog(&scratch, &gateway.public, &one));

    // An invalid key set changes nothing.
    scratch.write("sso.json", "{\"keys\":");
    gateway.running.stderr.wait_for("reload failed");
    assert!(receives_backlog(&scratch, &gateway.public, &token(&scratch, "two")));
}

/// From start to stop, with a publisher, a subscriber and a token that asks for an unknown key.
#[test]
fn egress_none_never_connects() {
    let scratch = Scratch::new();
    let rest = rest(&scratch);
    scratch.key("stranger");
    scratch.write("gateway.toml", &format!("egress = \"none\"\n{LISTENERS}{rest}"));
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", "trace", "-e", "trace=connect,sendto,sendmsg,sendmmsg"]);
    let serve = scratch.lastmile(["serve", "--config", "gateway.toml"]);
    traced.arg(serve.get_program()).args(serve.get_args()).current_dir(scratch.path(""));
    for (name, _) in serve.get_envs().filter(|(_, value)| value.is_none()) {
        traced.env_remove(name);
    }
    let mut gateway = Gateway::of(Running::start(traced));
    scratch.run(["publish", "c", "1", "--url", &gateway.publish, "--key", "p.key"]).ok();
    assert!(receives_backlog(&scratch, &gateway.public, &token(&scratch, "one")));
    assert!(!receives_backlog(&scratch, &gateway.public, &token(&scratch, "stranger")));
    let pid = until(|| {
        let children = Command::new("pgrep").args(["-P", &gateway.running.id().to_string()]).output().unwrap();
        String::from_utf8(children.stdout).unwrap().trim().parse::<u32>().ok()
    });
    assert!(Command::new("kill").args(["-s", "TERM", &pid.to_string()]).status().unwrap().success());
    gateway.running.stderr.wait_for("stopped");
    assert_eq!(gateway.running.wait(), Some(0));

    let trace = std::fs::read_to_string(scratch.path("trace")).unwrap();
    let outgoing: Vec<_> =
        trace.lines().filter(|line| line.contains("connect(") || line.contains("sin_addr")).collect();
    assert!(outgoing.is_empty(), "{outgoing:?}");
    // The trace sees what it is asked for: answers went out over accepted sockets.
    assert!(trace.contains("send"), "an empty trace proves nothing");
}
