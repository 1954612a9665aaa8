//! `GET /v1/events`: content, resume and end of a stream.

use proptest::prelude::*;
use serde_json::{Value, json};
use test_support::{EventReader, TestEnv, with_timeout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const OPEN: &str = "[[channels]]\nmatch = \"secret*\"\n[[channels]]\nmatch = \"*\"\nsubscribers = \"anyone\"\nbacklog_messages = 100\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_equals_websocket() {
    let env = TestEnv::start(OPEN).await;
    let mut ws = env.anonymous().await;
    let by_ws = ws.subscribe("c").await;
    let mut events = env.events("channel=c").await;
    assert_eq!(events.headers["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(events.headers["cache-control"], "no-store");
    assert_eq!(events.headers["x-accel-buffering"], "no");
    assert_eq!(events.headers["vary"], "Origin, Accept, Authorization, Cookie");
    let mut lines = env.lines("channel=c").await;
    assert_eq!(lines.headers["content-type"], "application/x-ndjson");

    let subscribed = events.expect("subscribed").await.json();
    let mut expected = by_ws.clone();
    expected.as_object_mut().unwrap().remove("id");
    assert_eq!(subscribed, expected);
    assert_eq!(lines.line().await.unwrap(), expected);
    assert_eq!(lines.line().await.unwrap()["type"], "cursor");
    assert!(events.reader.retry.is_some());
    assert_eq!(env.metric("lastmile_fallback_connections{transport=\"events\"}").await, 1.0);
    assert_eq!(env.metric("lastmile_connections").await, 3.0);

    // The publisher's own spelling of JSON arrives, in every form.
    for data in ["{ \"b\":1.50,\"a\" : [1e3,\"é\\u2028\\r\\n\"] }", "\"text\"", "null"] {
        env.publish("c", data).await;
        let text = ws.text().await;
        assert!(text.contains(data), "{text}");
        assert_eq!(events.expect("message").await.data, text);
        while lines.lines.is_empty() {
            lines.read_lines().await.expect("a stream that goes on");
        }
        assert_eq!(lines.lines.pop_front().as_deref(), Some(&*text));
        assert_eq!(lines.line().await.unwrap()["type"], "cursor");
    }
    drop((events, lines));
    env.await_metric("lastmile_fallback_connections", 0.0).await;
    env.await_metric("lastmile_subscriptions", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_event_id_resumes_both_formats() {
    let env = TestEnv::start(OPEN).await;
    let mut events = env.events("channel=c&channel=d").await;
    let begun = events.expect("subscribed").await.id;
    env.publish("c", "1").await;
    env.publish("d", "2").await;
    let first = events.expect("subscribed").await;
    assert_eq!(first.json()["channel"], "d");
    let one = events.expect("message").await;
    drop(events);
    env.publish("c", "3").await;

    // Behind the first message, and from the very beginning.
    for (id, count) in [(&one.id, 2), (&begun, 3)] {
        for accept in ["text/event-stream", "application/x-ndjson"] {
            let headers = [("last-event-id", id.as_str()), ("accept", accept)];
            let mut stream = env.try_events("channel=c&channel=d", &headers).await.expect("a stream");
            let mut seen = Vec::new();
            while seen.len() < count {
                let frame = match accept {
                    "text/event-stream" => stream.next().await.unwrap().json(),
                    _ => stream.line().await.unwrap(),
                };
                match frame["type"].as_str().unwrap() {
                    "subscribed" => assert_eq!(frame["recovered"], true),
                    "message" => seen.push(frame["data"].as_i64().unwrap()),
                    _ => {}
                }
            }
            seen.sort();
            assert_eq!(seen, [1, 2, 3][3 - count..], "{accept}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_backlog_arrives_complete() {
    let rules = "[[channels]]\nmatch = \"*\"\nsubscribers = \"anyone\"\nbacklog_messages = 100\n[limits]\noutbox_bytes = 65536\n";
    let env = TestEnv::start(rules).await;
    let filler = "x".repeat(20_000);
    for n in 1..=40 {
        env.publish("c", &json!({"n": n, "filler": filler}).to_string()).await;
    }
    let mut events = env.events("channel=c&backlog=40").await;
    assert_eq!(events.expect("subscribed").await.json()["recovered"], true);
    for n in 1..=40 {
        assert_eq!(events.expect("message").await.json()["data"]["n"], n);
    }
    // A poll gets it in pieces.
    let mut answer = env.poll("channel=c&backlog=40").await;
    let (mut seen, mut polls) = (Vec::new(), 1);
    loop {
        seen.extend(
            answer["messages"].as_array().unwrap().iter().map(|message| message["data"]["n"].as_i64().unwrap()),
        );
        if seen.len() >= 40 {
            break;
        }
        polls += 1;
        answer = env.poll(&format!("channel=c&cursor={}", answer["cursor"].as_str().unwrap())).await;
        assert_eq!(answer["recovered"], true);
    }
    assert_eq!(seen, (1..=40).collect::<Vec<_>>());
    assert!(polls > 2, "{polls}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_ends_with_its_token() {
    let env = TestEnv::start("").await;
    let bearer = format!("Bearer {}", env.issuer.token_with("alice", 5, |_| {}));
    let headers = [("authorization", bearer.as_str())];
    let mut events = env.try_events("channel=c", &headers).await.expect("a stream");
    let mut lines =
        env.try_events("channel=c", &[headers[0], ("accept", "application/x-ndjson")]).await.expect("a stream");
    events.expect("subscribed").await;
    let close = json!({"type": "close", "code": 4003, "reason": "token_expired"});
    assert_eq!(events.expect("close").await.json(), close);
    assert!(events.next().await.is_none());
    let mut rest = Vec::new();
    while let Some(line) = lines.line().await {
        rest.push(line);
    }
    assert_eq!(rest.last(), Some(&close));
    env.await_metric("lastmile_connections", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_right_ends_stream() {
    let env = TestEnv::start(OPEN).await;
    env.publish("a", "0").await;
    let mut events = env.events("channel=a&channel=b").await;
    let cursor = events.expect("subscribed").await.id;
    events.expect("subscribed").await;
    let publisher = env.publisher.toml("market-data", &["*"]);
    let anyone = "[[channels]]\nmatch = \"*\"\nsubscribers = \"anyone\"\n";
    env.reload(&publisher, &format!("[[channels]]\nmatch = \"a\"\n{anyone}"));
    let lost = json!({"type": "unsubscribed", "channel": "a", "reason": "forbidden", "code": 4502});
    assert_eq!(events.expect("unsubscribed").await.json(), lost);
    env.publish("a", "1").await;
    env.publish("b", "2").await;
    assert_eq!(events.expect("message").await.json()["data"], 2);
    // An old cursor opens nothing, on any fallback.
    let query = format!("channel=a&cursor={cursor}");
    let refused = env.try_events(&query, &[]).await.err().expect("a refusal");
    assert_eq!(refused.refusal(), (401, "unauthenticated".into()));
    assert_eq!(env.try_poll(&query, &[]).await.refusal(), (401, "unauthenticated".into()));

    env.reload(&publisher, "");
    assert_eq!(events.expect("unsubscribed").await.json()["channel"], "b");
    assert_eq!(events.expect("close").await.json(), json!({"type": "close", "code": 4502, "reason": "forbidden"}));
    assert!(events.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_closed_channel_refuses_request() {
    let env = TestEnv::start(OPEN).await;
    let check = async |query: &str, status: u16, problem: &str| {
        let refused = env.try_events(query, &[]).await.err().unwrap_or_else(|| panic!("{query} was given"));
        assert_eq!(refused.refusal(), (status, problem.into()), "{query}");
        assert_eq!(env.try_poll(query, &[]).await.refusal(), (status, problem.into()), "{query}");
    };
    check("channel=a&channel=secret", 401, "unauthenticated").await;
    check("", 400, "malformed").await;
    check("channel=", 400, "channel-invalid").await;
    check("channel=%00", 400, "channel-invalid").await;
    check("channel=a%0d%0aid:1", 400, "channel-invalid").await;
    check("channel=%ff", 400, "malformed").await;
    check("channel=a&channel=a", 409, "already-subscribed").await;
    check("backlog=1&channel=a", 400, "malformed").await;
    check("channel=a&backlog=-1", 400, "malformed").await;
    check("channel=a&backlog=%2b1", 400, "malformed").await;
    check("channel=a&since=x", 400, "malformed").await;
    check("channel=a&wait=soon", 400, "malformed").await;
    let many = (0..101).map(|n| format!("channel=c{n}")).collect::<Vec<_>>();
    check(&many.join("&"), 429, "limit-reached").await;
    assert_eq!(env.metric("lastmile_subscriptions").await, 0.0);
    let mut events = env.events(&many[..100].join("&")).await;
    env.publish("c99", "1").await;
    for _ in 0..100 {
        events.expect("subscribed").await;
    }
    assert_eq!(events.expect("message").await.json()["channel"], "c99");
    // A name in the query is encoded as forms do it.
    env.publish("a%20b%26", "1").await;
    let mut events = env.events("channel=a+b%26&backlog=1").await;
    events.expect("subscribed").await;
    assert_eq!(events.expect("message").await.json()["channel"], "a b&");
}

/// Every check stands in one place: the verdict is the same for an upgrade, a stream and a poll.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_transports_give_same_verdict() {
    let env = TestEnv::start("").await;
    let good = format!("Bearer {}", env.issuer.token("alice"));
    let expired = format!("Bearer {}", env.issuer.token_with("alice", 60, |token| token.audiences = vec!["x".into()]));
    let (good, expired) = (("authorization", good.as_str()), ("authorization", expired.as_str()));
    let cases: [&[(&str, &str)]; 6] = [
        &[good],
        &[expired],
        &[("authorization", "Bearer x")],
        &[good, ("origin", "https://evil.example")],
        &[good, ("origin", "null")],
        &[good, ("origin", "https://a.example"), ("origin", "https://b.example")],
    ];
    for headers in cases {
        let upgrade = env.connect_with(headers).await.err().map(|answer| answer.refusal());
        let stream = env.try_events("channel=c", headers).await.err().map(|answer| answer.refusal());
        let answer = env.try_poll("channel=c", headers).await;
        let poll = (answer.status != 200).then(|| answer.refusal());
        assert_eq!(upgrade, stream, "{headers:?}");
        assert_eq!(upgrade, poll, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_and_drain_are_reported() {
    let env = TestEnv::start(OPEN).await;
    let (mut one, mut two) = (env.events("channel=c").await, env.events("channel=c&channel=d").await);
    let mut lines = env.lines("channel=d").await;
    for stream in [&mut one, &mut two] {
        stream.expect("subscribed").await;
    }
    two.expect("subscribed").await;
    assert_eq!(env.call("DELETE", "/v1/channels/c", None).await.status, 204);
    let ended = json!({"type": "unsubscribed", "channel": "c", "reason": "channel_closed", "code": 4504});
    assert_eq!(one.expect("unsubscribed").await.json(), ended);
    assert_eq!(one.expect("close").await.json()["code"], 4504);
    assert!(one.next().await.is_none());
    assert_eq!(two.expect("unsubscribed").await.json(), ended);

    let report = env.gateway.shut_down();
    assert_eq!(two.expect("close").await.json(), json!({"type": "close", "code": 4000, "reason": "draining"}));
    assert!(two.next().await.is_none());
    let mut last = Value::Null;
    while let Some(line) = lines.line().await {
        last = line;
    }
    assert_eq!(last["reason"], "draining");
    assert_eq!(with_timeout("the drain", report).await.unwrap().left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_stream_closes_alone() {
    let more = "[limits]\noutbox_bytes = 262144\noutbox_stall_secs = 600\nclose_secs = 600\nhandshake_secs = 600\n";
    let env = TestEnv::start(&format!("{OPEN}{more}")).await;
    let (mut slow, mut good) = (env.events("channel=c").await, env.events("channel=c").await);
    good.expect("subscribed").await;
    let mut publisher = env.publisher_ws().await;
    let filler = "x".repeat(60_000);
    for offset in 1..=400 {
        publisher.send(json!({"type": "publish", "channel": "c", "data": filler})).await;
        publisher.expect("published").await;
        assert_eq!(good.expect("message").await.json()["offset"], offset);
    }
    env.await_metric("lastmile_slow_consumers_total", 1.0).await;
    slow.expect("subscribed").await;
    let (mut expected, mut cursor) = (1u64, String::new());
    let close = loop {
        let event = slow.next().await.expect("a last word");
        if event.kind == "close" {
            break event.json();
        }
        assert_eq!(event.json()["offset"].as_u64(), Some(expected), "no hole before the end");
        (expected, cursor) = (expected + 1, event.id);
    };
    assert_eq!(close, json!({"type": "close", "code": 4001, "reason": "slow_consumer"}));
    assert!(expected < 400);
    // It reconnects, and `recovered` states correctly if anything is missing.
    let mut back = env.events(&format!("channel=c&cursor={cursor}")).await;
    let recovered = back.expect("subscribed").await.json()["recovered"].as_bool().unwrap();
    let next = back.expect("message").await.json()["offset"].as_u64().unwrap();
    assert_eq!(recovered, next == expected, "{next} after {expected}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_stream_is_closed() {
    let more = "[limits]\noutbox_stall_secs = 1\nclose_secs = 1\nhandshake_secs = 1\n";
    let env = TestEnv::start(&format!("{OPEN}{more}")).await;
    let _slow = env.events("channel=c").await;
    let mut publisher = env.publisher_ws().await;
    let filler = "x".repeat(60_000);
    for _ in 0..200 {
        publisher.send(json!({"type": "publish", "channel": "c", "data": filler})).await;
        publisher.expect("published").await;
    }
    env.await_metric("lastmile_fallback_connections", 0.0).await;
    env.await_metric("lastmile_subscriptions", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_fill_silence() {
    let env = TestEnv::start(&format!("{OPEN}[limits]\nping_secs = 1\npong_secs = 1\n")).await;
    let (mut events, mut lines) = (env.events("channel=c").await, env.lines("channel=c").await);
    events.comments(3).await;
    while lines.blanks < 3 {
        lines.read_lines().await.expect("a stream that goes on");
    }
    env.publish("c", "1").await;
    events.expect("subscribed").await;
    events.expect("message").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_and_odd_requests_are_answered() {
    let env = TestEnv::start(OPEN).await;
    let address = env.gateway.authority("public");
    let raw = async |request: String| {
        let mut tcp = tokio::net::TcpStream::connect(&address).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        tcp
    };
    for method in ["HEAD", "POST", "OPTIONS"] {
        for path in ["/v1/events?channel=c", "/v1/poll?channel=c"] {
            let mut tcp =
                raw(format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).await;
            let mut text = String::new();
            with_timeout("an answer", tcp.read_to_string(&mut text)).await.unwrap();
            assert!(text.starts_with("HTTP/1.1 405 "), "{method} {path}: {text}");
        }
    }
    // HTTP/1.0 has no chunks: the body lasts until the connection ends.
    let mut tcp = raw(format!("GET /v1/events?channel=c HTTP/1.0\r\nHost: {address}\r\n\r\n")).await;
    env.await_metric("lastmile_subscriptions", 1.0).await;
    env.publish("c", "1").await;
    let mut text = String::new();
    while !text.contains("\"data\":1}\n\n") {
        let mut buffer = [0; 4096];
        let read = with_timeout("the stream", tcp.read(&mut buffer)).await.unwrap();
        assert!(read > 0, "{text}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 OK") && !head.to_lowercase().contains("chunked"), "{head}");
    assert!(body.starts_with("retry: "), "{body}");
    drop(tcp);
    env.await_metric("lastmile_subscriptions", 0.0).await;
    let mut tcp = raw(format!("GET /v1/poll?channel=c HTTP/1.0\r\nHost: {address}\r\n\r\n")).await;
    let mut text = String::new();
    with_timeout("an answer", tcp.read_to_string(&mut text)).await.unwrap();
    assert!(text.contains("\"messages\":[]"), "{text}");
}

/// Any JSON that a publisher can send, with the white space that JSON allows between tokens.
fn any_json() -> impl Strategy<Value = String> {
    let space = "[ \t\r\n]{0,3}";
    let string = any::<String>().prop_map(|text| serde_json::Value::from(text).to_string());
    let leaf = prop_oneof![string.clone(), any::<i64>().prop_map(|n| n.to_string()), Just("null".to_owned())];
    leaf.prop_recursive(3, 20, 4, move |inner| {
        let member =
            (string.clone(), space, inner.clone()).prop_map(|(name, space, value)| format!("{name}:{space}{value}"));
        prop_oneof![
            (proptest::collection::vec(inner, 0..4), space)
                .prop_map(|(items, space)| format!("[{space}{}{space}]", items.join(&format!("{space},")))),
            (proptest::collection::vec(member, 0..4), space)
                .prop_map(|(items, space)| format!("{{{space}{}{space}}}", items.join(&format!(",{space}")))),
        ]
    })
}

#[test]
fn any_data_is_one_event() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (env, events) = runtime.block_on(async {
        let env = TestEnv::start(OPEN).await;
        let mut events = env.events("channel=c").await;
        events.expect("subscribed").await;
        (env, events)
    });
    let events = tokio::sync::Mutex::new(events);
    proptest!(ProptestConfig { cases: 100, max_shrink_iters: 50, failure_persistence: None, ..Default::default() }, |(data in any_json())| {
        runtime.block_on(async {
            let mut events = events.lock().await;
            env.publish("c", &data).await;
            let event = events.expect("message").await;
            // Line ends between tokens come as spaces; nothing else is different.
            let carried = data.replace(['\r', '\n'], " ");
            let carried = carried.trim_matches([' ', '\t']);
            assert!(event.data.contains(&format!("\"data\":{carried}")) , "{data:?} came as {event:?}");
            assert_eq!(event.json()["data"], serde_json::from_str::<Value>(&data).unwrap());
            assert!(event.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
            assert!(events.reader.events.is_empty(), "one event");
        });
    });
}

#[test]
fn event_reader_follows_standard() {
    let mut reader = EventReader::default();
    for byte in
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\r\nid\r\n\r\ndata:  third event\r\rdata\n\n"
    {
        reader.feed(&[*byte]);
    }
    reader.feed(b"x");
    let seen: Vec<_> = reader.events.iter().map(|event| (event.id.as_str(), event.data.as_str())).collect();
    assert_eq!(seen, [("1", "first event"), ("", "second event"), ("", " third event"), ("", "")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_stream_unsubscribes_at_once() {
    let env = TestEnv::start(OPEN).await;
    let events = env.events("channel=a&channel=b").await;
    let cursor = env.poll("channel=a").await["cursor"].as_str().unwrap().to_owned();
    let query = format!("channel=a&cursor={cursor}&wait=60");
    // The poll is given up while it waits.
    tokio::select! {
        answer = env.try_poll(&query, &[]) => panic!("there was nothing to tell: {answer:?}"),
        () = env.await_metric("lastmile_subscriptions", 3.0) => {}
    }
    drop(events);
    env.await_metric("lastmile_subscriptions", 0.0).await;
    env.await_metric("lastmile_connections", 0.0).await;
}
