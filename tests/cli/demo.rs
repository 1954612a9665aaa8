//! `demo`: everything works, and nothing is left.

use std::fs;
use std::net::TcpListener;

use crate::support::{Running, Scratch, get};

/// The arguments of a command that the demonstration prints.
fn arguments(line: &str) -> Vec<String> {
    // `quoted` in the program puts only odd paths into quotes, and this test's are plain.
    let words = line.split('\'').enumerate().flat_map(|(index, part)| match index % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.skip(1).collect()
}

#[test]
fn demo_serves_page_and_cleans_up() {
    let scratch = Scratch::new();
    let mut demo = Running::start(scratch.lastmile(["demo", "--port", "0"]));
    let page = demo.stdout.wait_for("/demo");
    let public = page.split_whitespace().nth(1).unwrap().strip_suffix("/demo").unwrap().to_owned();
    let health = demo.stdout.wait_for("/readyz");
    let publish = demo.stdout.wait_for("publish demo.ticker");
    let subscribe = demo.stdout.wait_for("subscribe members.news");
    let members = demo.stdout.wait_for("publish members.news");
    for tick in 1..=2 {
        let line = demo.stdout.wait_for("{\"type\":\"message\"");
        assert!(line.contains(&format!("\"tick\":{tick},")), "{line}");
    }

    for (path, content_type, words) in [
        ("/demo", "text/html", "page.js"),
        ("/demo/page.js", "text/javascript", "/demo/client.js"),
        ("/demo/client.js", "text/javascript", "WebSocket"),
        ("/demo/page.css", "text/css", "body"),
        ("/demo/page.svg", "image/svg+xml", "<svg"),
    ] {
        let (head, body) = get(&public, path);
        let head = head.to_lowercase();
        assert!(head.starts_with("http/1.1 200") && head.contains(content_type), "{head}");
        assert!(head.contains("content-security-policy") && body.contains(words), "{path}: {head}");
    }

    scratch.run(["healthcheck", "--url", health.split_whitespace().nth(1).unwrap()]).ok();
    scratch.run(arguments(&publish)).ok();
    demo.stdout.wait_for("{\"hello\": \"world\"}");
    scratch.run(arguments(&members)).ok();
    let mut subscribe = arguments(&subscribe);
    subscribe.extend(["--backlog", "1", "--count", "1"].map(str::to_owned));
    assert!(scratch.run(&subscribe).ok().stdout.contains("for members only"));
    subscribe.truncate(4);
    scratch.run(&subscribe).failed(1, "unauthenticated");

    demo.signal("INT");
    assert_eq!(demo.wait(), Some(0));
    let left: Vec<_> = fs::read_dir(scratch.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn demo_reports_taken_port() {
    let scratch = Scratch::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().min(65533).to_string();
    let ran = scratch.run(["demo", "--port", &port]).failed(1, "cannot listen on");
    assert!(ran.stderr.contains("--port 0"), "{ran:?}");
    assert_eq!(fs::read_dir(scratch.path("")).unwrap().count(), 0);
    scratch.run(["demo", "--port", "65534"]).failed(64, "--port");
}
