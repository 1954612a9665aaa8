//! Replies of subscribers and answers of publishers, all over connections that were opened to the gateway.

use serde_json::{Value, json};
use test_support::{TestEnv, Ws};

const SUPPORT: &str = "[[channels]]\nmatch = \"support\"\nreplies = true\n";

/// A subscriber who was sent one message of `support`, and that message's id.
async fn asked(env: &TestEnv, publisher: &mut Ws) -> (Ws, String) {
    let mut alice = env.subscriber().await;
    alice.subscribe("support").await;
    publisher.send(json!({"type": "publish", "id": "1", "channel": "support", "data": "Shall I?"})).await;
    publisher.expect("published").await;
    let message = alice.expect("message").await;
    (alice, message["message_id"].as_str().unwrap().to_owned())
}

fn reply(id: &str, to: &str, data: Value) -> Value {
    json!({"type": "reply", "id": id, "channel": "support", "to": to, "data": data})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reply_is_confirmed_end_to_end() {
    let env = TestEnv::start(SUPPORT).await;
    let mut publisher = env.publisher_ws().await;
    let (mut alice, message) = asked(&env, &mut publisher).await;
    alice
        .send_text(&format!(
            r#"{{"type":"reply","id":"5","channel":"support","to":"{message}","data":{{"text":  "yes"}}}}"#
        ))
        .await;
    let text = publisher.text().await;
    assert!(text.ends_with(r#""data":{"text":  "yes"}}"#), "byte for byte: {text}");
    let got: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&got["type"], &got["channel"], &got["to"]), (&json!("reply"), &json!("support"), &json!(message)));
    assert_eq!(got["principal"], json!({"issuer": "https://sso.example.com", "subject": "alice"}));
    // The publisher has not acknowledged it, so the subscriber has no result yet.
    alice.expect_silence().await;
    publisher.send(json!({"type": "received", "reply": got["reply"]})).await;
    assert_eq!(alice.json().await, json!({"type": "replied", "id": "5"}));
    publisher.send(json!({"type": "received", "id": "9", "reply": got["reply"]})).await;
    assert_eq!(publisher.expect_error("reply_unknown").await["id"], "9");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answer_reaches_one_subscriber() {
    let env = TestEnv::start(SUPPORT).await;
    let mut publisher = env.publisher_ws().await;
    let (mut alice, message) = asked(&env, &mut publisher).await;
    let mut bob = env.subscriber().await;
    bob.subscribe("support").await;
    let mut question = reply("5", &message, json!(1));
    question["answer"] = true.into();
    alice.send(question).await;
    let got = publisher.expect("reply").await;
    publisher.send_text(&format!(r#"{{"type":"answer","id":"7","reply":{},"data":{{"n": 1}}}}"#, got["reply"])).await;
    assert_eq!(alice.expect("replied").await["id"], "5");
    let text = alice.text().await;
    assert_eq!(text, r#"{"type":"answer","id":"5","channel":"support","publisher":"market-data","data":{"n": 1}}"#);
    assert_eq!(publisher.expect("answered").await["id"], "7");
    bob.expect_silence().await;
    publisher.send(json!({"type": "answer", "id": "8", "reply": got["reply"], "data": 2})).await;
    publisher.expect_error("reply_unknown").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_wait_for_publisher() {
    let env = TestEnv::start(SUPPORT).await;
    let mut publisher = env.publisher_ws().await;
    let (mut alice, message) = asked(&env, &mut publisher).await;
    publisher.close(1000, "").await;
    let _ = publisher.next().await;
    drop(publisher);
    alice.send(reply("5", &message, json!("late"))).await;
    alice.expect_silence().await;
    let mut back = env.publisher_ws().await;
    let got = back.expect("reply").await;
    // It disconnects without an acknowledgement; its replies go to the next connection.
    drop(back);
    let mut again = env.publisher_ws().await;
    let same = again.expect("reply").await;
    assert_eq!(same, got);
    again.send(json!({"type": "received", "reply": same["reply"]})).await;
    assert_eq!(alice.expect("replied").await["id"], "5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unanswered_reply_times_out() {
    let env = TestEnv::start(&format!("{SUPPORT}[limits]\nreply_secs = 4\n")).await;
    let mut publisher = env.publisher_ws().await;
    let (mut alice, message) = asked(&env, &mut publisher).await;
    alice.send(reply("5", &message, json!(1))).await;
    publisher.expect("reply").await;
    let error = alice.expect_error("publisher_absent").await;
    assert_eq!((&error["id"], &error["temporary"]), (&json!("5"), &json!(true)));
    let mut question = reply("6", &message, json!(2));
    question["answer"] = true.into();
    alice.send(question).await;
    let got = publisher.expect("reply").await;
    publisher.send(json!({"type": "received", "reply": got["reply"]})).await;
    alice.expect("replied").await;
    assert_eq!(alice.expect_error("answer_timeout").await["id"], "6");
    assert_eq!(env.metric("lastmile_replies_total{result=\"expired\"}").await, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_reply_is_refused() {
    let env = TestEnv::start(&format!("{SUPPORT}[[channels]]\nmatch = \"c\"\n")).await;
    let mut publisher = env.publisher_ws().await;
    let (mut alice, message) = asked(&env, &mut publisher).await;
    for (frame, code) in [
        (json!({"type": "reply", "channel": "support", "data": 1}), "malformed"),
        (json!({"type": "reply", "channel": "support", "to": message}), "malformed"),
        (json!({"type": "reply", "to": message, "data": 1}), "malformed"),
        (json!({"type": "reply", "channel": "c", "to": message, "data": 1}), "not_subscribed"),
        (reply("1", "nonsense", json!(1)), "message_unknown"),
        (reply("1", "other-1", json!(1)), "message_unknown"),
        (reply("1", &message.replace("-1", "-2"), json!(1)), "message_unknown"),
        (reply("1", &message.replace("-1", "-0"), json!(1)), "message_unknown"),
    ] {
        alice.send(frame).await;
        alice.expect_error(code).await;
    }
    alice.subscribe("c").await;
    let published = env.publish("c", "1").await;
    alice.expect("message").await;
    alice.send(json!({"type": "reply", "channel": "c", "to": published["id"], "data": 1})).await;
    alice.expect_error("forbidden").await;
    publisher.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reply_queue_share_is_limited() {
    let limits = "[limits]\nmax_replies = 3\nmax_replies_per_connection = 2\n";
    let env = TestEnv::start(&format!("{SUPPORT}{limits}")).await;
    let mut publisher = env.publisher_ws().await;
    let (mut alice, message) = asked(&env, &mut publisher).await;
    let mut bob = env.subscriber().await;
    bob.subscribe("support").await;
    for id in ["1", "2"] {
        alice.send(reply(id, &message, json!(id))).await;
    }
    alice.send(reply("3", &message, json!(3))).await;
    assert_eq!(alice.expect_error("rate_limited").await["id"], "3");
    bob.send(reply("1", &message, json!("b"))).await;
    bob.expect_silence().await;
    bob.send(reply("2", &message, json!("b"))).await;
    bob.expect_error("rate_limited").await;
    for _ in 0..3 {
        let got = publisher.expect("reply").await;
        publisher.send(json!({"type": "received", "reply": got["reply"]})).await;
    }
    bob.expect("replied").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_person_leaves_room_for_replies_of_others() {
    let env = TestEnv::start(SUPPORT).await;
    let mut publisher = env.publisher_ws().await;
    let (mut alice, message) = asked(&env, &mut publisher).await;
    // Sixteen of each connection, and a hundred of one person.
    let mut connections = vec![];
    for accepted in [16, 16, 16, 16, 16, 16, 4] {
        let mut more = env.subscriber().await;
        more.subscribe("support").await;
        for id in 0..16 {
            more.send(reply(&id.to_string(), &message, json!(id))).await;
        }
        for _ in 0..accepted {
            publisher.expect("reply").await;
        }
        connections.push(more);
    }
    connections[6].expect_error("rate_limited").await;
    alice.send(reply("a", &message, json!(1))).await;
    alice.expect_error("rate_limited").await;
    let mut bob = env.connect().await;
    bob.hello(Some(&env.issuer.token("bob"))).await;
    bob.subscribe("support").await;
    bob.send(reply("b", &message, json!("from bob"))).await;
    let got = loop {
        // Those of the others come again while they are not acknowledged.
        let got = publisher.expect("reply").await;
        if got["data"] == "from bob" {
            break got;
        }
    };
    publisher.send(json!({"type": "received", "reply": got["reply"]})).await;
    bob.expect("replied").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answer_needs_current_right() {
    let env = TestEnv::start(SUPPORT).await;
    let mut publisher = env.publisher_ws().await;
    let (mut alice, message) = asked(&env, &mut publisher).await;
    alice.send(reply("5", &message, json!(1))).await;
    let got = publisher.expect("reply").await;
    alice.send(json!({"type": "unsubscribe", "id": "6", "channel": "support"})).await;
    alice.expect("unsubscribed").await;
    publisher.send(json!({"type": "answer", "id": "7", "reply": got["reply"], "data": "secret"})).await;
    publisher.expect_error("reply_unknown").await;
    alice.expect("replied").await;
    alice.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publisher_receives_presence_on_request() {
    let env = TestEnv::start("[[channels]]\nmatch = \"c\"\nsubscribers = \"anyone\"\n").await;
    let mut first = env.anonymous().await;
    first.subscribe("c").await;
    let mut publisher = env.publisher_ws().await;
    publisher.send(json!({"type": "watch", "id": "1", "channel": "c"})).await;
    assert_eq!(publisher.json().await, json!({"type": "watching", "id": "1", "channel": "c", "connections": 1}));
    let mut alice = env.subscriber().await;
    alice.subscribe("c").await;
    let event = publisher.expect("event").await;
    assert_eq!((&event["event"], &event["connections"]), (&json!("subscribed"), &json!(2)));
    assert_eq!(event["principal"]["subject"], "alice");
    first.send(json!({"type": "unsubscribe", "channel": "c"})).await;
    let event = publisher.expect("event").await;
    assert_eq!((&event["event"], &event["connections"]), (&json!("unsubscribed"), &json!(1)));
    assert!(event.get("principal").is_none());
    drop(alice);
    assert_eq!(publisher.expect("event").await["connections"], 0);
    publisher.send(json!({"type": "watch", "id": "2", "channel": "c"})).await;
    publisher.expect_error("already_subscribed").await;
    publisher.send(json!({"type": "unwatch", "id": "3", "channel": "c"})).await;
    assert_eq!(publisher.json().await, json!({"type": "unwatched", "id": "3", "channel": "c"}));
    env.subscriber().await.subscribe("c").await;
    publisher.expect_silence().await;
    publisher.send(json!({"type": "unwatch", "id": "4", "channel": "c"})).await;
    publisher.expect_error("not_subscribed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publisher_watches_own_channels_only() {
    let env = TestEnv::start("").await;
    let other = test_support::TestPublisher::new();
    env.reload(&other.toml("other", &["mine"]), "");
    let mut ws = env.open_publisher(&other).await.expect("an upgrade");
    ws.expect("welcome").await;
    ws.send(json!({"type": "watch", "id": "1", "channel": "c"})).await;
    ws.expect_error("channel_forbidden").await;
    ws.send(json!({"type": "watch", "id": "1", "channel": "mine"})).await;
    ws.expect("watching").await;
}
