//! A publisher's rights end in the middle of a request, and of a connection.

use bytes::Bytes;
use http::Request;
use serde_json::json;
use test_support::http::{Io, connect};
use test_support::{TestEnv, TestPublisher, eventually, unix_now, with_timeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A request whose head was accepted: the gateway waits for its body.
pub struct Waiting {
    io: Box<dyn Io>,
    body: Bytes,
}

impl Waiting {
    async fn begin(env: &TestEnv, listener: &str, request: Request<Bytes>) -> Self {
        let body = request.body().clone();
        let mut head = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri());
        for (name, value) in request.headers() {
            head += &format!("{name}: {}\r\n", value.to_str().unwrap());
        }
        head += &format!("content-length: {}\r\nexpect: 100-continue\r\n\r\n", body.len());
        let mut io = connect(env.gateway.address(listener)).await;
        io.write_all(head.as_bytes()).await.unwrap();
        let mut wait = [0; 25];
        with_timeout("100 Continue", io.read_exact(&mut wait)).await.unwrap();
        assert_eq!(&wait, b"HTTP/1.1 100 Continue\r\n\r\n");
        Self { io, body }
    }

    /// Sends the body; returns the whole response.
    async fn finish(mut self) -> String {
        self.io.write_all(&self.body).await.unwrap();
        let mut response = Vec::new();
        let mut buffer = [0; 4096];
        with_timeout("a response", async {
            while !response.ends_with(b"}") {
                let read = self.io.read(&mut buffer).await.unwrap();
                assert!(read > 0, "{}", String::from_utf8_lossy(&response));
                response.extend_from_slice(&buffer[..read]);
            }
        })
        .await;
        String::from_utf8(response).unwrap()
    }
}

const ROOMS: &str = "[listeners.pair]\naddress = \"127.0.0.1:0\"\nroles = [\"pair\"]\n[rooms]\nopen = \"publisher\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_removed_before_end_of_body() {
    let env = TestEnv::start(ROOMS).await;
    let (leaver, stays) = (TestPublisher::new(), env.publisher.toml("market-data", &["*"]));
    env.reload(&format!("{stays}{}control = true\n", leaver.toml("leaver", &["*"])), ROOMS);
    let json: (&str, &[u8]) = ("application/json", b"{}");
    let all = [
        ("publish", "POST", "/v1/channels/c/messages", json),
        ("publish", "POST", "/v1/channels/c/messages", ("application/x-ndjson", b"1\n2\n")),
        ("publish", "PUT", "/v1/channels/c", json),
        ("publish", "PUT", "/v1/control/channels", ("application/json", b"{\"channels\":[]}")),
        (
            "publish",
            "POST",
            "/v1/control/revocations",
            ("application/json", b"{\"issuer\":\"https://sso.example.com\"}"),
        ),
        ("pair", "POST", "/v1/rooms", json),
    ];
    let begin = async || {
        let mut waiting = Vec::new();
        for (listener, method, path, body) in all {
            for key in [None, Some("retry-1")] {
                let mut request = leaver.request(&env.gateway.authority(listener), method, path, Some(body));
                request
                    .headers_mut()
                    .extend(key.map(|key| (http::HeaderName::from_static("idempotency-key"), key.parse().unwrap())));
                waiting.push((path, Waiting::begin(&env, listener, request).await));
            }
        }
        waiting
    };
    let mut alice = env.subscriber().await;
    let refused_as = async |waiting: Vec<(&str, Waiting)>, problem: &str| {
        for (path, request) in waiting {
            let response = request.finish().await;
            assert!(response.starts_with("HTTP/1.1 40") && response.contains(problem), "{path}: {response}");
        }
    };
    let waiting = begin().await;
    env.reload(&stays, ROOMS);
    refused_as(waiting, "/problems/key-unknown").await;
    // Also where the key stays, and its time has passed or its channels are others.
    env.reload(&format!("{stays}{}control = true\n", leaver.toml("leaver", &["*"])), ROOMS);
    let waiting = begin().await;
    let expired = "not_after = \"2020-01-01T00:00:00Z\"\n";
    env.reload(&format!("{stays}{}{expired}", leaver.toml("leaver", &["*"])), ROOMS);
    refused_as(waiting, "/problems/key-expired").await;
    env.reload(&format!("{stays}{}control = true\n", leaver.toml("leaver", &["*"])), ROOMS);
    let mut waiting = begin().await;
    waiting.retain(|(path, _)| *path != "/v1/rooms");
    env.reload(&format!("{stays}{}", leaver.toml("leaver", &["other"])), ROOMS);
    refused_as(waiting, "forbidden").await;
    // Nothing of all that was done.
    alice.subscribe("c").await;
    assert_eq!(env.publish("c", "1").await["offset"], 1);
    assert_eq!(env.metric("lastmile_rooms").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_key_opens_no_room() {
    let env = TestEnv::start(ROOMS).await;
    let (leaver, stays) = (TestPublisher::new(), env.publisher.toml("market-data", &["*"]));
    env.reload(&format!("{stays}{}", leaver.toml("leaver", &["*"])), ROOMS);
    let handshake = leaver.request(&env.gateway.authority("pair"), "GET", "/v1/rooms", None);
    let mut ws = test_support::Ws::open(env.gateway.address("pair"), handshake).await.expect("an upgrade");
    env.reload(&stays, ROOMS);
    ws.send(json!({"type": "open"})).await;
    ws.expect_close(4501, "unauthenticated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publisher_connection_ends_with_key() {
    let env = TestEnv::start("[channel_defaults]\nreplies = true\n").await;
    let toml = |end: u64| {
        let end = jiff::Timestamp::from_second(end as i64).unwrap();
        format!("{}not_after = \"{end}\"\n", env.publisher.toml("market-data", &["*"]))
    };
    let more = "[channel_defaults]\nreplies = true\n";
    let (mut before, end) = (env.publisher_ws().await, unix_now() + 3);
    env.reload(&toml(end), more);
    let mut with_end = env.publisher_ws().await;
    for ws in [&mut before, &mut with_end] {
        ws.send(json!({"type": "watch", "channel": "c"})).await;
        ws.expect("watching").await;
    }
    for ws in [&mut before, &mut with_end] {
        loop {
            match ws.receive().await {
                test_support::Received::Close(code, reason) => break assert_eq!((code, &*reason), (4503, "revoked")),
                test_support::Received::Text(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(unix_now() >= end);
    assert_eq!(env.post("c", "application/json", b"1").await.refusal(), (401, "key-expired".into()));
    // A later end keeps what is open.
    let end = unix_now() + 3;
    env.reload(&toml(end), more);
    let mut kept = env.publisher_ws().await;
    env.reload(&toml(end + 3600), more);
    eventually("the first end", async || (unix_now() > end + 1).then_some(())).await;
    kept.expect_silence().await;
    // An end in the past ends at once.
    env.reload(&toml(unix_now() - 1), more);
    kept.expect_close(4503, "revoked").await;
}
