//! `publish`, with `subscribe` at the other end.

use crate::support::{Gateway, Running, Scratch};

/// A gateway where the key `p.key` may publish to `open.*`, which is for anyone.
fn start() -> (Scratch, Gateway) {
    let scratch = Scratch::new();
    let (_, key) = scratch.key("p");
    let rest = format!(
        "[publishers.p]\n{key}\nchannels = [\"open.*\"]\n\
         [[channels]]\nmatch = \"open.*\"\nsubscribers = \"anyone\"\nbacklog_messages = 5000\nmax_message_bytes = 1000\n"
    );
    let gateway = Gateway::start(&scratch, &rest);
    (scratch, gateway)
}

#[test]
fn published_data_arrives_unchanged() {
    let (scratch, gateway) = start();
    let publish = |args: &[&str]| {
        let common = ["publish", "open.a", "--url", &gateway.publish, "--key", "p.key"];
        scratch.run(common.iter().chain(args))
    };
    let ran = publish(&["{\"usd\": 3001.50}"]).ok();
    let answer: serde_json::Value = serde_json::from_str(ran.stdout.trim_end()).unwrap();
    assert_eq!((&answer["type"], &answer["channel"]), (&"published".into(), &"open.a".into()));
    assert_eq!(answer["offset"], 1);
    publish(&["plain words"]).ok();
    publish(&["--text", "7"]).ok();
    publish(&["-7"]).ok();
    assert_eq!(publish(&["--quiet", "\"é\""]).ok().stdout, "");

    let args = ["subscribe", "open.a", "--backlog", "9", "--count", "5", "--url", &gateway.public];
    let received = scratch.run(args).ok();
    let data: Vec<_> = received.stdout.lines().map(|line| line.split_once("\"data\":").unwrap().1).collect();
    assert_eq!(data, ["{\"usd\": 3001.50}}", "\"plain words\"}", "\"7\"}", "-7}", "\"é\"}"]);
    assert_eq!(received.stdout.lines().filter(|line| line.contains("\"publisher\":\"p\"")).count(), 5);
}

#[test]
fn thousand_lines_keep_order() {
    let (scratch, gateway) = start();
    let args = ["publish", "open.lines", "-", "--url", &gateway.publish, "--key", "p.key"];
    let mut publisher = Running::start(scratch.lastmile(args));
    // More than may be unanswered at once; an empty line is no message.
    let lines: String = (0..2500).map(|n| format!("{n}\n\n")).collect();
    publisher.write(&lines);
    for n in 1..=2500 {
        assert_eq!(publisher.stdout.json()["offset"], n);
    }
    // The rest comes after the answers to what was sent before.
    publisher.write("\"late\"");
    assert_eq!(publisher.wait(), Some(0));
    assert_eq!(publisher.stdout.json()["offset"], 2501);

    let args = ["subscribe", "open.lines", "--backlog", "5000", "--count", "2501", "--url", &gateway.public];
    let received = scratch.run(args).ok();
    let data = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["data"].clone();
    let data: Vec<_> = received.stdout.lines().map(data).collect();
    assert!(data.iter().take(2500).enumerate().all(|(n, data)| *data == n), "{data:?}");
    assert_eq!(data[2500], "late");
}

#[test]
fn refusal_sets_exit_code() {
    let (scratch, gateway) = start();
    scratch.key("stranger");
    let publish = |channel: &str, data: &str, key: &str| {
        scratch.run(["publish", channel, data, "--url", &gateway.publish, "--key", key])
    };
    let ran = publish("secret.a", "1", "p.key").failed(1, "channel_forbidden");
    assert_eq!(ran.stdout, "");
    publish("open.a", "1", "stranger.key").failed(1, "key-unknown");
    publish("open.a", &format!("\"{}\"", "x".repeat(2000)), "p.key").failed(1, "message_too_large");
    publish("", "1", "p.key").failed(1, "channel_invalid");
    scratch.run(["publish", "c", "1", "--url", "http://127.0.0.1:9", "--key", "p.key"]).failed(1, "cannot connect");
    scratch.run(["publish", "c", "1", "--url", "127.0.0.1", "--key", "p.key"]).failed(64, "http://");
    scratch.run(["publish", "c", "1", "--url", &gateway.ops, "--key", "p.key"]).failed(1, "404");
}

#[test]
fn refused_line_does_not_stop_others() {
    let (scratch, gateway) = start();
    let args = ["publish", "open.a", "--url", &gateway.publish, "--key", "p.key"];
    let mut publisher = Running::start(scratch.lastmile(args));
    publisher.write(&format!("1\n{}\n3\n", "x".repeat(2000)));
    publisher.stderr.wait_for("message 2 refused: message_too_large");
    assert_eq!(publisher.wait(), Some(1));
    assert_eq!(publisher.stdout.json()["id"], "1");
    assert_eq!(publisher.stdout.json()["id"], "3");
    assert_eq!(publisher.stdout.next(), None);
}

#[test]
fn removed_key_is_reported() {
    let (scratch, gateway) = start();
    let args = ["publish", "open.a", "-", "--url", &gateway.publish, "--key", "p.key"];
    let mut publisher = Running::start(scratch.lastmile(args));
    publisher.write("1\n");
    assert_eq!(publisher.stdout.json()["offset"], 1);
    scratch.write("gateway.toml", crate::support::LISTENERS);
    gateway.running.signal("HUP");
    publisher.stderr.wait_for("4503 revoked");
    assert_eq!(publisher.wait(), Some(1));
}
