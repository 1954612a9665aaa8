//! Logs: no secrets, no messages, one line for each event.

use serde_json::{Value, json};
use test_support::{TempDir, eventually};

use crate::node::{Node, Setup, command as serve};
use crate::raw::{Reply, ask, connect, read_reply, send};
use crate::ws::{RawWs, command, text, upgrade};

/// Stands in every secret and every message of these tests.
const CANARY: &str = "c4n4ry";

const TSLM: &str = "[listeners.tslm]\naddress = \"127.0.0.1:0\"\nroles = [\"tslm\"]\n\
                    default_endpoint_permissions = [\"Subscribe\", \"CreateChannel\", \"NotifyChannel\"]\nchannels = [\"*\"]\n\
                    auth_tokens = [\"c4n4ry-of-the-listener\"]\n";

/// Everything that a client gets or that an operator sees.
struct Seen {
    secrets: Vec<String>,
    errors: Vec<String>,
}

impl Seen {
    fn error(&mut self, reply: &Reply) {
        assert!(reply.status >= 400, "{reply:?}");
        self.errors.push(format!("{}{}", reply.head, reply.text()));
    }

    fn check(&self, node: &Node, metrics: &str) {
        let command_line = std::fs::read(format!("/proc/{}/cmdline", node.pid())).unwrap();
        let command_line = String::from_utf8_lossy(&command_line).into_owned();
        let log = node.log();
        let outputs = log.iter().chain(&self.errors).map(String::as_str).chain([metrics, &command_line]);
        for output in outputs {
            for secret in &self.secrets {
                assert!(!output.contains(secret.as_str()), "{secret} in {output}");
            }
        }
        for line in log {
            let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
            assert!(value.is_object() && value["timestamp"].is_string() && value["level"].is_string(), "{line}");
            assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
            assert!(line.len() < 8 * 1024, "a line of {} bytes", line.len());
        }
    }
}

#[tokio::test]
async fn secrets_never_leave_the_gateway() {
    let node = Node::start(Setup { log: "trace", more: TSLM, ..Setup::default() }).await;
    // Not a secret: the log names the subject of a connection that ends.
    let subject = "reader-of-private";
    let good = node.issuer.token(subject);
    let mut forged = good.clone();
    forged.replace_range(good.len() - 8.., "AAAAAAAA");
    let secrets = vec![
        CANARY.to_owned(),
        good.rsplit('.').next().unwrap().to_owned(),
        good.split('.').nth(1).unwrap().to_owned(),
        forged.clone(),
    ];
    let mut seen = Seen { secrets, errors: Vec::new() };

    // Subscribers with tokens good and bad, in the header and in hello.
    for token in [&forged, &format!("{CANARY}.{CANARY}.{CANARY}"), &format!("{CANARY}{}", "x".repeat(9000))] {
        let request = upgrade("/v1/subscribe", "gateway", &format!("authorization: Bearer {token}\r\n"));
        seen.error(&ask(node.public(), &request).await.unwrap());
        let mut ws = node.connect().await;
        ws.send(&command(json!({"type": "hello", "token": token}))).await;
        assert_eq!(ws.end().await.code(), 4501);
    }
    let mut subscriber = node.connect().await;
    subscriber.send(&command(json!({"type": "hello", "token": good}))).await;
    assert_eq!(subscriber.json().await["principal"], subject);
    subscriber.subscribe("private").await;
    subscriber.send(&command(json!({"type": "refresh", "id": "1", "token": forged}))).await;
    seen.errors.push(subscriber.json().await.to_string());
    for bad in [
        format!(r#"{{"type":"{CANARY}"}}"#).replace(CANARY, "x"),
        json!({"type": "refresh", "token": [CANARY]}).to_string(),
        json!({"type": "subscribe", "channel": "a", "since": {"epoch": CANARY, "offset": -1}}).to_string(),
        json!({"type": "reply", "channel": "a", "to": "x", "data": CANARY}).to_string(),
    ] {
        subscriber.send(&text(&bad)).await;
        seen.errors.push(subscriber.json().await.to_string());
    }

    // Publications that are taken, and such that are not.
    let data = format!("{{\"secret\":\"{CANARY}\"}}");
    node.publish("private", &data).await;
    assert_eq!(subscriber.json().await["data"]["secret"], CANARY);
    let mut publisher = node.publisher_ws().await;
    publisher.send(&command(json!({"type": "publish", "id": "1", "channel": "private", "data": CANARY}))).await;
    assert_eq!(publisher.json().await["type"], "published");
    let bad = json!({"type": "publish", "channel": "private", "encoding": "base64", "data": CANARY});
    publisher.send(&command(bad)).await;
    seen.errors.push(publisher.json().await.to_string());
    seen.error(&node.post("private", "application/json", format!("{{{CANARY}").as_bytes()).await);
    seen.error(&node.post("private", "application/x-ndjson", format!("1\n[{CANARY}]").as_bytes()).await);
    let signed =
        node.signed_bytes("POST", "/v1/channels/private/messages", Some(("application/json", data.as_bytes())));
    assert_eq!(ask(node.address("publish"), &signed).await.unwrap().status, 200);
    seen.error(&ask(node.address("publish"), &signed).await.unwrap());
    let signed = String::from_utf8(signed).unwrap();
    let signature = signed.lines().find_map(|line| line.strip_prefix("signature: ")).unwrap();
    seen.secrets.push(signature.trim_matches(':').rsplit(':').next().unwrap().trim_end_matches(':').to_owned());
    seen.error(&ask(node.address("publish"), signed.replace(CANARY, "c4n4rY").as_bytes()).await.unwrap());
    let unsigned = format!(
        "POST /v1/channels/private/messages HTTP/1.1\r\nhost: gateway\r\ncookie: lastmile={CANARY}\r\n\
         signature: sig=:{CANARY}:\r\nsignature-input: sig=();keyid=\"{CANARY}\"\r\ncontent-length: 6\r\n\r\n{CANARY}"
    );
    seen.error(&ask(node.address("publish"), unsigned.as_bytes()).await.unwrap());

    // The dialect and its tokens.
    let headers = "sec-websocket-protocol: c4n4ry-of-another\r\n";
    seen.error(&RawWs::open(node.address("tslm"), "/", headers).await.err().expect("a refusal"));
    let headers = "authorization: Bearer c4n4ry-of-the-listener\r\n";
    RawWs::open(node.address("tslm"), "/", headers).await.expect("an upgrade");

    drop((subscriber, publisher));
    node.await_metric("lastmile_connections", 0.0).await;
    let metrics = ask(node.address("ops"), b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await.unwrap().text();
    seen.check(&node, &metrics);
    for parts in [vec!["token refused"], vec!["connection closed", subject]] {
        let is_logged = || node.log().iter().any(|line| parts.iter().all(|part| line.contains(part)));
        eventually(parts[0], async || is_logged().then_some(())).await;
    }
    // A password of the configuration does not come out of its checks.
    node.signal("HUP");
    node.await_metric("lastmile_reloads_total", 1.0).await;
    seen.check(&node, "");
}

#[tokio::test]
async fn client_text_keeps_log_lines_whole() {
    let more = "[listeners.balanced]\naddress = \"127.0.0.1:0\"\nroles = [\"subscribe\"]\nproxy_protocol = true\n";
    let top = "trusted_proxies = [\"127.0.0.1\"]";
    let node = Node::start(Setup { log: "trace", more, top, ..Setup::default() }).await;
    let long = "x".repeat(6000);
    let nasty: [&[u8]; 8] = [
        b"\x1b[31mred\x1b[0m",
        b"\x1b]0;title\x07",
        b"{\"level\":\"ERROR\",\"message\":\"forged\"}",
        "\u{202e}\u{2066}bidi\u{85}\u{9b}31m".as_bytes(),
        b"%0d%0a{\"forged\":1}",
        b"\t\x7f\x08\xff\xfe",
        b"\"\\",
        long.as_bytes(),
    ];
    for bytes in nasty {
        for name in ["user-agent", "origin", "referer", "x-forwarded-for", "forwarded", "authorization", "x-request-id"]
        {
            for listener in ["public", "publish", "ops"] {
                let mut request = upgrade("/v1/subscribe", "gateway", "");
                request.truncate(request.len() - 2);
                let prefix: &[u8] = if name == "authorization" { b"Bearer " } else { b"" };
                request.extend([name.as_bytes(), b": ", prefix, bytes, b"\r\n\r\n"].concat());
                let mut stream = connect(node.address(listener)).await;
                send(&mut stream, &request).await;
                read_reply(&mut stream).await;
            }
        }
        for listener in ["public", "publish", "ops", "balanced"] {
            let mut stream = connect(node.address(listener)).await;
            send(&mut stream, &[b"GET /", bytes, b" HTTP/1.1\r\nhost: ", bytes, b"\r\n\r\n"].concat()).await;
            read_reply(&mut stream).await;
        }
        let value = String::from_utf8_lossy(bytes).into_owned();
        for frame in [
            json!({"type": value}),
            json!({"type": "subscribe", "id": value, "channel": value}),
            json!({"type": "subscribe", "channel": format!("open.{value}"), "since": {"epoch": value, "offset": 1}}),
            json!({"type": "refresh", "token": value}),
        ] {
            let mut ws = node.connect().await;
            ws.hello().await;
            ws.send(&command(frame)).await;
            ws.json().await;
        }
        let mut ws = node.connect().await;
        ws.send(&command(json!({"type": "hello", "token": value}))).await;
        ws.end().await;
    }
    Seen { secrets: Vec::new(), errors: Vec::new() }.check(&node, "");
    for line in node.log() {
        let line: Value = serde_json::from_str(&line).unwrap();
        assert!(line["message"] != "forged" && line.get("forged").is_none(), "{line}");
    }
}

#[tokio::test]
async fn configuration_errors_hide_secrets() {
    for wrong in [
        format!("auth_tokens = [\"{CANARY}\", \"\"]"),
        format!("auth_tokens = \"{CANARY}\""),
        format!("auth_tokens = [\"{CANARY}\", 7]"),
        format!("auth_tokens = {{ a = \"{CANARY}\" }}"),
        format!("auth_token = [\"{CANARY}\"]"),
        format!("auth_tokens = [\"{CANARY}\"]\nmax_message_size = 0"),
        format!("auth_tokens = [\"{CANARY}\"\nmax_message_size = 0"),
        format!("auth_tokens = [\"{CANARY}\"]\nroles = []"),
    ] {
        let folder = TempDir::new();
        let listener = format!("[listeners.tslm]\naddress = \"127.0.0.1:0\"\nroles = [\"tslm\"]\n{wrong}\n");
        folder.write("lastmile.toml", &listener);
        let output = serve(&folder).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{wrong}: {errors}");
        assert!(!errors.contains(CANARY), "{wrong}: {errors}");
    }
}
