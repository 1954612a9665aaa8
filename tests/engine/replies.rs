//! Replies and answers between gateways that share a Redis: the subscriber is on one, the publisher on the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lastmile::broker::engine::Start;
use lastmile::broker::engine::node_bus::Topic;
use lastmile::broker::replies::{NewReply, RemoteTask, ReplyLimits};
use lastmile::broker::{Connection, Engine, NodeBus, Now, Replies};
use lastmile::protocol::ErrorCode;
use serde_json::{Value, json};
use test_support::{RedisServer, Ws, eventually};

use crate::gateways::{Pair, expect_past_degraded};
use crate::nodes::Node;
use crate::support::rule;

const SUPPORT: &str = "[[channels]]\nmatch = \"support\"\nreplies = true\n";

/// Two gateways, a subscriber on the first and its message's id, published by the second.
async fn asked(server: &RedisServer, limits: &str) -> (Pair, Ws, Ws, String) {
    let pair = Pair::start(&format!("url = \"{}\"\n{SUPPORT}{limits}", server.url())).await;
    let mut publisher = pair.publisher_ws(1).await;
    let mut alice = pair.subscriber(0).await;
    alice.subscribe("support").await;
    publisher.send(json!({"type": "publish", "id": "1", "channel": "support", "data": "Shall I?"})).await;
    publisher.expect("published").await;
    let message = alice.expect("message").await["message_id"].as_str().unwrap().to_owned();
    (pair, publisher, alice, message)
}

fn reply(id: &str, to: &str, wants_answer: bool) -> Value {
    json!({"type": "reply", "id": id, "channel": "support", "to": to, "answer": wants_answer, "data": {"n": 1}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reply_crosses_nodes_and_back() {
    let server = RedisServer::start(false);
    let (_pair, mut publisher, mut alice, message) = asked(&server, "").await;
    alice.send(reply("5", &message, false)).await;
    let got = publisher.expect("reply").await;
    assert_eq!((&got["to"], &got["principal"]["subject"]), (&json!(message), &json!("alice")));
    // Confirmed by the publisher, not by its node.
    alice.expect_silence().await;
    publisher.send(json!({"type": "received", "reply": got["reply"]})).await;
    assert_eq!(alice.json().await, json!({"type": "replied", "id": "5"}));
    publisher.send(json!({"type": "received", "id": "9", "reply": got["reply"]})).await;
    assert_eq!(publisher.expect_error("reply_unknown").await["id"], "9");

    alice.send(reply("6", &message, true)).await;
    let got = publisher.expect("reply").await;
    publisher.send(json!({"type": "answer", "id": "7", "reply": got["reply"], "data": {"ticket": 17}})).await;
    assert_eq!(alice.expect("replied").await["id"], "6");
    let answer = alice.expect("answer").await;
    assert_eq!((&answer["id"], &answer["data"]), (&json!("6"), &json!({"ticket": 17})));
    assert_eq!(publisher.expect("answered").await["id"], "7");
    publisher.send(json!({"type": "answer", "id": "8", "reply": got["reply"], "data": 2})).await;
    publisher.expect_error("reply_unknown").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reply_waits_for_reconnecting_publisher() {
    let server = RedisServer::start(false);
    let (pair, mut publisher, mut alice, message) = asked(&server, "").await;
    publisher.close(1000, "").await;
    let _ = publisher.next().await;
    drop(publisher);
    for (id, node) in [("5", 1), ("6", 0), ("7", 1)] {
        alice.send(reply(id, &message, false)).await;
        alice.expect_silence().await;
        let mut back = pair.publisher_ws(node).await;
        let got = back.expect("reply").await;
        back.send(json!({"type": "received", "reply": got["reply"]})).await;
        assert_eq!(alice.expect("replied").await["id"], id);
        back.close(1000, "").await;
        let _ = back.next().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn untaken_reply_is_reported_in_time() {
    let server = RedisServer::start(false);
    let (_pair, publisher, mut alice, message) = asked(&server, "[limits]\nreply_secs = 2\n").await;
    drop(publisher);
    alice.send(reply("5", &message, false)).await;
    assert_eq!(alice.expect_error("publisher_absent").await["id"], "5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_owner_settles_across_nodes() {
    let server = RedisServer::start(false);
    let (_pair, mut publisher, mut alice, message) = asked(&server, "").await;
    alice.send(reply("5", &message, false)).await;
    let got = publisher.expect("reply").await["reply"].as_str().unwrap().to_owned();
    let (_, node) = got.rsplit_once('-').unwrap();
    for name in [format!("r-0123456789abcdef-{node}"), "r-1-aaaaaaaa".into(), format!("r-1-{node}:x"), "r-1-*".into()] {
        publisher.send(json!({"type": "answer", "id": name, "reply": name, "data": 1})).await;
        assert_eq!(publisher.expect_error("reply_unknown").await["id"], json!(name));
    }
    alice.expect_silence().await;
    publisher.send(json!({"type": "received", "reply": got})).await;
    alice.expect("replied").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_survive_redis_memory_loss() {
    let mut server = RedisServer::start(false);
    let (pair, mut publisher, mut alice, _) = asked(&server, "").await;
    server.kill();
    server.restart();
    expect_past_degraded(&mut alice, "unsubscribed").await;
    eventually("the engine", async || {
        publisher.send(json!({"type": "publish", "channel": "support", "data": 1})).await;
        (publisher.json().await["type"] == "published").then_some(())
    })
    .await;
    let mut alice = pair.subscriber(0).await;
    alice.subscribe("support").await;
    publisher.send(json!({"type": "publish", "channel": "support", "data": 2})).await;
    publisher.expect("published").await;
    let message = alice.expect("message").await["message_id"].as_str().unwrap().to_owned();
    alice.send(reply("5", &message, false)).await;
    let got = publisher.expect("reply").await;
    publisher.send(json!({"type": "received", "reply": got["reply"]})).await;
    assert_eq!(alice.expect("replied").await["id"], "5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_request_is_answered_or_reported() {
    let server = RedisServer::start(false);
    let nodes = [Node::on(&server, &rule()), Node::on(&server, &rule())];
    words_go_both_ways(&nodes).await;
    let [one, two] = nodes.each_ref().map(|node| node.engine.node_bus().unwrap());
    let unanswered = one.request("abcdefgh", Topic::Replies, b"").await.unwrap_err();
    assert_eq!(unanswered.code, ErrorCode::NotFound);
    // The request arrived, and no answer was sent.
    let mut words = two.subscribe(Topic::Replies);
    let began = Instant::now();
    let unanswered = one.request(two.node(), Topic::Replies, b"hello").await.unwrap_err();
    assert_eq!(unanswered.code, ErrorCode::EngineUnavailable);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // A late answer is dropped.
    two.respond(words.recv().await.unwrap(), b"late").await.unwrap();
    one.register_publisher("p").await.unwrap();
    two.register_publisher("p").await.unwrap();
    one.unregister_publisher("p", one.node()).await.unwrap();
    assert_eq!(one.nodes_with_publisher("p").await.unwrap(), [two.node()]);
    drop(server);
    eventually("the end of the way", async || one.nodes_with_publisher("p").await.err()).await;
    let began = Instant::now();
    assert_eq!(one.request(two.node(), Topic::Replies, b"").await.unwrap_err().code, ErrorCode::EngineUnavailable);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

/// Many at once, each with its own answer.
pub async fn words_go_both_ways(nodes: &[Node; 2]) {
    let buses = nodes.each_ref().map(|node| node.engine.node_bus().unwrap());
    for (asker, asked) in [(0, 1), (1, 0)] {
        let (asker, asked): (Arc<dyn NodeBus>, Arc<dyn NodeBus>) = (buses[asker].clone(), buses[asked].clone());
        let name = asked.node().to_owned();
        let mut words = asked.subscribe(Topic::Replies);
        let echo = tokio::spawn(async move {
            while let Some(word) = words.recv().await {
                let bytes = word.bytes.clone();
                asked.respond(word, &bytes).await.unwrap();
            }
        });
        eventually("the way", async || asker.request(&name, Topic::Replies, b"x").await.ok()).await;
        // No more at once than are answered in two seconds by a busy machine; those that are not are asked again.
        for first in (0..200u64).step_by(25) {
            let asked = (first..first + 25).map(async |n| {
                let bytes = n.to_le_bytes();
                eventually("an answer", async || asker.request(&name, Topic::Replies, &bytes).await.ok()).await
            });
            for (n, answer) in (first..).zip(futures_util::future::join_all(asked).await) {
                assert_eq!(answer[..], n.to_le_bytes());
            }
        }
        echo.abort();
    }
}

/// The queue of tasks for other nodes while none is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_task_per_reply_with_bounded_queue() {
    const MEGABYTE: usize = 1 << 20;
    let hour = Duration::from_secs(3600);
    let limits =
        ReplyLimits { max_replies: 1000, max_replies_per_connection: 1000, max_bytes: 1000 * MEGABYTE, keep: hour };
    let replies = Replies::new(limits);
    let mut tasks = replies.enable_cluster("abcdefgh");
    let env = crate::support::TestEnv::new(crate::support::Kind::Memory, rule());
    let to = env.publish("c", "Shall I?").await;
    let subscriber = env.join("c", Start::Live);
    let from: Arc<Connection> = subscriber.connection.clone();
    let (channel, now) = (crate::support::name("c"), Now::read());
    let send = |bytes: usize| {
        let data = format!("\"{}\"", "x".repeat(bytes));
        let outward = NewReply {
            from: &from,
            membership: &subscriber.membership,
            principal: None,
            id: None,
            channel: &channel,
            to: &to,
            data: &data,
            wants_answer: false,
        };
        replies.send(&"p".into(), outward, now).unwrap();
    };
    send(1);
    for secs in 1..100 {
        replies.sweep(now.monotonic + Duration::from_secs(secs));
    }
    assert_eq!(tasks.len(), 1, "it is on its way already");
    (0..20).for_each(|_| send(MEGABYTE));
    assert_eq!(tasks.len(), 16);
    // A publisher of this node cannot answer replies that another node keeps.
    let recipient = replies.attach("q".into(), crate::support::connection());
    let answer = "x".repeat(MEGABYTE);
    let Err(refused) = recipient.answer("r-1-bbbbbbbb", &answer) else { panic!("taken") };
    assert_eq!(refused.code, ErrorCode::EngineUnavailable);
    // Refused tasks are queued once there is space; failed ones are tried again.
    let mut carried = 0;
    while carried < 100 {
        while let Ok((task, _held)) = tasks.try_recv() {
            carried += usize::from(matches!(task, RemoteTask::Forward { .. }));
        }
        replies.sweep(now.monotonic + Duration::from_secs(200 + carried as u64));
        assert!(tasks.len() <= 16);
    }
    while tasks.try_recv().is_ok() {}
    assert!(recipient.answer("r-1-bbbbbbbb", &answer).is_ok());
}
