//! `subscribe`: how it ends, and how it comes back.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use test_support::free_port;

use crate::support::{Gateway, LISTENERS, Running, Scratch, until};

fn rest(scratch: &Scratch) -> String {
    let (_, key) = scratch.key("p");
    format!(
        "[publishers.p]\n{key}\nchannels = [\"*\"]\n\
         [[channels]]\nmatch = \"open\"\nsubscribers = \"anyone\"\nbacklog_messages = 100\n"
    )
}

/// Publishes until the subscriber, who may not listen yet, has it.
fn publish_until_received(scratch: &Scratch, gateway: &Gateway, subscriber: &Running) -> serde_json::Value {
    let publish = ["publish", "open", "\"hello\"", "--url", &gateway.publish, "--key", "p.key"];
    scratch.run(publish).ok();
    subscriber.stdout.json()
}

#[test]
fn ctrl_c_and_sigterm_exit_cleanly() {
    let scratch = Scratch::new();
    let gateway = Gateway::start(&scratch, &rest(&scratch));
    for signal in ["INT", "TERM"] {
        let mut subscriber =
            Running::start(scratch.lastmile(["subscribe", "open", "--backlog", "1", "--url", &gateway.public]));
        assert_eq!(publish_until_received(&scratch, &gateway, &subscriber)["data"], "hello");
        subscriber.signal(signal);
        assert_eq!(subscriber.wait(), Some(0));
    }
}

#[test]
fn closed_reader_is_no_error() {
    let scratch = Scratch::new();
    let gateway = Gateway::start(&scratch, &rest(&scratch));
    let publish = |data: &str| {
        scratch.run(["publish", "open", data, "--url", &gateway.publish, "--key", "p.key"]).ok();
    };
    publish("1");
    let mut command = scratch.lastmile(["subscribe", "open", "--backlog", "1", "--url", &gateway.public]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.ends_with("\"data\":1}\n"), "{line}");
    // The pipe is closed now; the next publication meets it.
    publish("2");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn reconnects_and_reports_gap_after_restart() {
    let scratch = Scratch::new();
    scratch.write("gateway.toml", &format!("{LISTENERS}{}", rest(&scratch)));
    let set = format!("listeners.public.address=127.0.0.1:{}", free_port());
    let start = || Gateway::with_file(&scratch, "gateway.toml", &["--set", &set]);
    let mut gateway = start();
    let mut subscriber =
        Running::start(scratch.lastmile(["subscribe", "open", "--backlog", "1", "--url", &gateway.public]));
    publish_until_received(&scratch, &gateway, &subscriber);
    gateway.running.signal("TERM");
    subscriber.stderr.wait_for("4000 draining; connecting again");
    assert_eq!(gateway.running.wait(), Some(0));

    let mut gateway = start();
    subscriber.stderr.wait_for("publications may be missing");
    assert_eq!(publish_until_received(&scratch, &gateway, &subscriber)["data"], "hello");
    subscriber.signal("INT");
    assert_eq!(subscriber.wait(), Some(0));
    gateway.running.signal("TERM");
    assert_eq!(gateway.running.wait(), Some(0));
}

#[test]
fn permanent_refusal_ends_with_reason() {
    let scratch = Scratch::new();
    let gateway = Gateway::start(&scratch, &rest(&scratch));
    let subscribe = |args: &[&str]| scratch.run(["subscribe"].iter().chain(args));
    subscribe(&["closed", "--url", &gateway.public]).failed(1, "closed: unauthenticated");
    subscribe(&["open", "--token", "a.b.c", "--url", &gateway.public]).failed(1, "4501 unauthenticated");
    subscribe(&["open", "--url", &gateway.publish]).failed(1, "404");
    subscribe(&["open", "--url", "http://127.0.0.1:9"]).failed(1, "cannot connect");
    subscribe(&["open", "--token-file", "missing", "--url", &gateway.public]).failed(64, "missing");
    subscribe(&["--url", &gateway.public]).failed(64, "CHANNEL");
}

#[test]
fn denied_subscription_ends_command() {
    let scratch = Scratch::new();
    let rest = rest(&scratch);
    let gateway = Gateway::start(&scratch, &rest);
    let mut subscriber =
        Running::start(scratch.lastmile(["subscribe", "open", "--backlog", "1", "--url", &gateway.public]));
    publish_until_received(&scratch, &gateway, &subscriber);
    scratch.write("gateway.toml", &format!("{LISTENERS}{}", rest.replace("\"anyone\"", "\"authenticated\"")));
    gateway.running.signal("HUP");
    subscriber.stderr.wait_for("4502 forbidden");
    assert_eq!(subscriber.wait(), Some(1));
}

#[test]
fn repeated_channel_is_one_subscription() {
    let scratch = Scratch::new();
    let gateway = Gateway::start(&scratch, &rest(&scratch));
    let publish = || scratch.run(["publish", "open", "1", "--url", &gateway.publish, "--key", "p.key"]).ok();
    publish();
    let args = ["subscribe", "open", "open", "--backlog", "9", "--count", "2", "--url", &gateway.public];
    let mut subscriber = Running::start(scratch.lastmile(args));
    assert_eq!(subscriber.stdout.json()["offset"], 1);
    publish();
    assert_eq!(subscriber.stdout.json()["offset"], 2);
    assert_eq!(subscriber.wait(), Some(0));
    until(|| subscriber.stdout.next().is_none().then_some(()));
}
