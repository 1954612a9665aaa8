//! Strangers and made-up names: gateways on every engine keep their room for publishers and for other subscribers.

use serde_json::{Value, json};
use test_support::events::Stream;
use test_support::gateway::TestEnv;
use test_support::{RedisServer, Ws, eventually};

use crate::support::Kind;

const ENGINES: [Kind; 3] = [Kind::Memory, Kind::Disk, Kind::Redis];

/// Far fewer channels than the tests make names.
const LIMITS: &str = "[limits]\nmax_channels = 300\nmax_waiting_names = 1000\nmax_waiting_names_per_holder = 500\n";

async fn start(kind: Kind, rules: &str) -> (TestEnv, Option<RedisServer>) {
    let rules = format!("{LIMITS}[channel_defaults]\nbacklog_messages = 100\n{rules}\n[engine]\n");
    match kind {
        Kind::Memory => (TestEnv::start(&format!("{rules}kind = \"memory\"")).await, None),
        Kind::Disk => {
            let folder = test_support::TempDir::new();
            let path = folder.path().join("store");
            let engine = format!("{rules}kind = \"disk\"\npath = {:?}", path.to_str().unwrap());
            (TestEnv::start_nodes(1, &engine, folder).await, None)
        }
        Kind::Redis => {
            let server = RedisServer::start(false);
            let engine = format!("{rules}kind = \"redis\"\nurl = {:?}", server.url());
            (TestEnv::start_nodes(2, &engine, ()).await, Some(server))
        }
    }
}

const ANYONE: &str = "subscribers = \"anyone\"";

fn query(from: usize, count: usize) -> String {
    (from..from + count).map(|n| format!("channel=made.{n}")).collect::<Vec<_>>().join("&")
}

/// Nothing of the names is left, publishers make channels, and other subscribers wait for names.
async fn is_clean(env: &TestEnv, server: Option<&RedisServer>) {
    for (metric, value) in
        [("lastmile_waiting_names", 0.0), ("lastmile_subscriptions", 0.0), ("lastmile_channels", 0.0)]
    {
        env.await_metric(metric, value).await;
    }
    if let Some(server) = server {
        for command in ["KEYS *", "PUBSUB CHANNELS *"] {
            eventually(command, async || (!server.command(command)?.contains("made.")).then_some(())).await;
        }
    }
    is_open(env).await;
}

async fn is_open(env: &TestEnv) {
    env.publish("prices.new", "1").await;
    assert_eq!(env.call("PUT", "/v1/channels/prices.other", None).await.status, 201);
    let mut ws = env.subscriber().await;
    assert_eq!(ws.subscribe("prices.next").await["offset"], 0);
    env.publish("prices.next", "7").await;
    let message = ws.expect("message").await;
    assert_eq!((&message["offset"], &message["data"]), (&json!(1), &json!(7)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polled_names_fill_nothing() {
    for kind in ENGINES {
        let (env, server) = start(kind, ANYONE).await;
        for request in 0..40 {
            env.poll(&query(request * 100, 100)).await;
        }
        is_clean(&env, server.as_ref()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streamed_names_end_with_their_streams() {
    for kind in ENGINES {
        let (env, server) = start(kind, ANYONE).await;
        for round in 0..4 {
            let mut streams: Vec<Stream> = Vec::new();
            for n in 0..4 {
                let mut stream = env.events(&query((round * 4 + n) * 100, 100)).await;
                stream.expect("subscribed").await;
                streams.push(stream);
            }
            assert_eq!(env.metric("lastmile_waiting_names").await, 400.0);
            assert_eq!(env.metric("lastmile_channels").await, 0.0);
            // All or nothing: a request that exceeds the share keeps none of its names.
            let answer = env.try_poll(&format!("channel=made.x&channel=made.y&{}", query(90_000, 98)), &[]).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let stream = env.events(&query(80_000, 50)).await;
            let answer = env.try_poll(&query(90_000, 100), &[]).await;
            assert_eq!(answer.refusal(), (429, "limit-reached".into()));
            drop(stream);
            env.await_metric("lastmile_waiting_names", 400.0).await;
            drop(streams);
            env.await_metric("lastmile_waiting_names", 0.0).await;
        }
        is_clean(&env, server.as_ref()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_gone_connections_fill_nothing() {
    for kind in ENGINES {
        let (env, server) = start(kind, ANYONE).await;
        for connection in 0..4 {
            let mut ws = env.anonymous().await;
            let names = 450;
            for n in 0..names {
                ws.feed(json!({"type": "subscribe", "channel": format!("made.{connection}.{n}")}).to_string()).await;
            }
            ws.flush().await;
            for _ in 0..names {
                ws.expect("subscribed").await;
            }
            drop(ws);
            env.await_metric("lastmile_waiting_names", 0.0).await;
        }
        is_clean(&env, server.as_ref()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_fills_its_share_alone() {
    for kind in ENGINES {
        let (env, server) = start(kind, "").await;
        let token = env.issuer.token("mallory");
        let mut held: Vec<Ws> = Vec::new();
        let mut last = Value::Null;
        'full: for connection in 0.. {
            let mut ws = env.connect().await;
            ws.hello(Some(&token)).await;
            for n in 0..200 {
                ws.send(json!({"type": "subscribe", "channel": format!("made.{connection}.{n}")})).await;
                last = ws.json().await;
                if last["type"] == "error" {
                    held.push(ws);
                    break 'full;
                }
            }
            held.push(ws);
        }
        assert_eq!((&last["code"], &last["temporary"]), (&json!("limit_reached"), &json!(true)));
        assert_eq!(env.metric("lastmile_waiting_names").await, 500.0);
        let authorization = format!("Bearer {token}");
        let answer = env.try_poll("channel=made.more", &[("authorization", &authorization)]).await;
        assert_eq!(answer.refusal(), (429, "limit-reached".into()));
        assert!(answer.header("retry-after").parse::<u32>().unwrap() > 0);
        // No other client notices, and the names it has still work.
        is_open(&env).await;
        env.publish("made.0.0", "1").await;
        assert_eq!(held[0].expect("message").await["offset"], 1);
        let answer = env.try_poll("channel=made.more", &[("authorization", &authorization)]).await;
        assert_eq!(answer.status, 200, "a channel is no waiting name any more");
        drop(held);
        env.await_metric("lastmile_waiting_names", 0.0).await;
        drop(server);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_miss_no_first_publication() {
    for kind in ENGINES {
        let (env, server) = start(kind, ANYONE).await;
        let first = env.poll("channel=a&channel=b").await;
        env.await_metric("lastmile_waiting_names", 0.0).await;
        let next = |answer: &Value| format!("channel=a&channel=b&cursor={}", answer["cursor"].as_str().unwrap());
        let silent = env.poll(&format!("{}&wait=0", next(&first))).await;
        assert_eq!((&silent["recovered"], &silent["messages"]), (&json!(true), &json!([])));
        env.await_metric("lastmile_waiting_names", 0.0).await;
        env.publish("a", "1").await;
        env.publish("a", "2").await;
        let answer = env.poll(&next(&silent)).await;
        let offsets: Vec<_> = answer["messages"].as_array().unwrap().iter().map(|one| one["offset"].clone()).collect();
        assert_eq!((&answer["recovered"], offsets), (&json!(true), vec![json!(1), json!(2)]));
        assert_eq!(answer["messages"][0]["epoch"], first["subscribed"][0]["epoch"]);
        drop(server);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_tables_are_temporary() {
    let env = TestEnv::start(&format!(
        "[channel_defaults]\n{ANYONE}\n[limits]\nmax_channels = 2\nmax_waiting_names = 3\n\
         max_waiting_names_per_holder = 3\n"
    ))
    .await;
    let mut ws = env.anonymous().await;
    for channel in ["a", "b", "c"] {
        ws.subscribe(channel).await;
    }
    let mut other = env.subscriber().await;
    other.send(json!({"type": "subscribe", "channel": "d"})).await;
    assert_eq!(other.expect_error("limit_reached").await["temporary"], true, "the total");
    // Publishers have their own room, until it is full as well.
    env.publish("new", "1").await;
    env.publish("a", "1").await;
    assert_eq!(ws.expect("message").await["channel"], "a");
    other.subscribe("d").await;
    let answer = env.post("b", "application/json", b"1").await;
    assert_eq!((answer.refusal(), answer.header("retry-after")), ((429, "limit-reached".into()), "5"));
    let mut publisher = env.publisher_ws().await;
    publisher.send(json!({"type": "publish", "id": "1", "channel": "e", "data": 1})).await;
    assert_eq!(publisher.expect_error("limit_reached").await["temporary"], true);
    assert_eq!(env.call("PUT", "/v1/channels/b", None).await.refusal(), (429, "limit-reached".into()));
    for (metric, value) in [("lastmile_channels", 2.0), ("lastmile_channels_max", 2.0)] {
        assert_eq!(env.metric(metric).await, value);
    }
    for (metric, value) in [("lastmile_waiting_names", 3.0), ("lastmile_waiting_names_max", 3.0)] {
        assert_eq!(env.metric(metric).await, value);
    }
    // A refused publisher changes nothing for those that wait.
    assert_eq!(env.call("DELETE", "/v1/channels/new", None).await.status, 204);
    env.publish("b", "1").await;
    let message = ws.expect("message").await;
    assert_eq!((&message["channel"], &message["offset"]), (&json!("b"), &json!(1)));
}

/// An office behind one address with thousands of names, with the defaults.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn office_waits_with_defaults() {
    let env = TestEnv::start(&format!("[channel_defaults]\n{ANYONE}\n")).await;
    let mut held = Vec::new();
    for person in 0..50 {
        let mut ws = env.anonymous().await;
        for n in 0..100 {
            ws.feed(json!({"type": "subscribe", "channel": format!("inbox.{person}.{n}")}).to_string()).await;
        }
        ws.flush().await;
        for _ in 0..100 {
            ws.expect("subscribed").await;
        }
        held.push(ws);
    }
    assert_eq!(env.metric("lastmile_waiting_names").await, 5000.0);
    env.publish("inbox.49.99", "1").await;
    assert_eq!(held[49].expect("message").await["channel"], "inbox.49.99");
}
