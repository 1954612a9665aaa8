//! `GET /v1/poll`: nothing is missed between two polls, and nothing comes twice.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::{TestEnv, with_timeout};

const OPEN: &str = "[[channels]]\nmatch = \"*\"\nsubscribers = \"anyone\"\nbacklog_messages = 1000\n";

fn next(answer: &Value) -> String {
    format!("channel=c&cursor={}", answer["cursor"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_poll_gives_cursor() {
    let env = TestEnv::start(OPEN).await;
    env.publish("c", "0").await;
    let first = env.poll("channel=c").await;
    assert_eq!(first["messages"], json!([]));
    assert_eq!(first["subscribed"][0]["offset"], 1);
    // Messages between two polls are returned at once.
    env.publish("c", "1").await;
    let second = env.poll(&next(&first)).await;
    assert_eq!((&second["messages"][0]["data"], &second["recovered"]), (&json!(1), &json!(true)));
    assert_eq!(second["messages"][0]["type"], "message");

    let query = next(&second);
    env.await_metric("lastmile_fallback_connections{transport=\"poll\"}", 0.0).await;
    let (answer, ()) = tokio::join!(env.poll(&query), async {
        env.await_metric("lastmile_fallback_connections{transport=\"poll\"}", 1.0).await;
        env.publish("c", "2").await;
    });
    assert_eq!(answer["messages"].as_array().unwrap().len(), 1);
    assert_eq!(answer["messages"][0]["offset"], 3);
    env.await_metric("lastmile_subscriptions", 0.0).await;

    // Silence ends with the wait, and the cursor stays good.
    let begun = Instant::now();
    let silent = env.poll(&format!("{}&wait=1", next(&answer))).await;
    assert!(begun.elapsed() >= Duration::from_millis(900));
    assert_eq!((&silent["messages"], &silent["recovered"]), (&json!([]), &json!(true)));
    assert_eq!(silent["cursor"], answer["cursor"]);
    let now = env.poll(&format!("{}&wait=0", next(&silent))).await;
    assert_eq!(now["messages"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_messages_are_reported() {
    let env = TestEnv::start("[[channels]]\nmatch = \"*\"\nsubscribers = \"anyone\"\nbacklog_messages = 3\n").await;
    let first = env.poll("channel=c").await;
    for n in 1..=5 {
        env.publish("c", &n.to_string()).await;
    }
    let answer = env.poll(&next(&first)).await;
    assert_eq!(answer["recovered"], false);
    let seen: Vec<_> = answer["messages"].as_array().unwrap().iter().map(|one| one["data"].as_i64().unwrap()).collect();
    assert_eq!(seen, [3, 4, 5]);
    // A channel that begins anew has another epoch.
    assert_eq!(env.call("DELETE", "/v1/channels/c", None).await.status, 204);
    env.publish("c", "6").await;
    let answer = env.poll(&next(&answer)).await;
    assert_eq!((&answer["recovered"], &answer["messages"][0]["data"]), (&json!(false), &json!(6)));
    let answer = env.poll(&format!("{}&wait=0", next(&answer))).await;
    assert_eq!(answer["recovered"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_poll_reports_its_end() {
    let env = TestEnv::start(OPEN).await;
    let first = env.poll("channel=c").await;
    let waiting = async || {
        let query = next(&first);
        env.poll(&query).await
    };
    let polls = async |count| env.await_metric("lastmile_fallback_connections{transport=\"poll\"}", count).await;
    polls(0.0).await;
    let (answer, ()) = tokio::join!(waiting(), async {
        polls(1.0).await;
        assert_eq!(env.call("DELETE", "/v1/channels/c", None).await.status, 204);
    });
    assert_eq!(answer["unsubscribed"][0]["reason"], "channel_closed");
    assert_eq!(answer["close"], json!({"type": "close", "code": 4504, "reason": "channel_closed"}));

    polls(0.0).await;
    let (answer, ()) = tokio::join!(waiting(), async {
        polls(1.0).await;
        env.reload(&env.publisher.toml("market-data", &["*"]), "");
    });
    assert_eq!(answer["close"]["code"], 4502);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_ends_waiting_polls() {
    let env = TestEnv::start(OPEN).await;
    let query = next(&env.poll("channel=c").await);
    env.await_metric("lastmile_fallback_connections{transport=\"poll\"}", 0.0).await;
    let address = env.gateway.address("public").clone();
    let request = test_support::events::request(&address, "GET", &format!("/v1/poll?{query}"), &[]);
    let poll = tokio::spawn(async move { test_support::http::send(&address, request).await });
    env.await_metric("lastmile_fallback_connections{transport=\"poll\"}", 1.0).await;
    let report = env.gateway.stop().await;
    assert_eq!(report.left, 0);
    assert_eq!(with_timeout("the answer", poll).await.unwrap().json()["close"]["reason"], "draining");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grouped_messages_share_an_answer() {
    let env = TestEnv::start(OPEN).await;
    let mut publisher = env.publisher_ws().await;
    let (mut answer, mut seen, mut polls) = (env.poll("channel=c").await, 0, 0);
    let publishing = tokio::spawn(async move {
        for n in 0..500 {
            publisher.feed(json!({"type": "publish", "channel": "c", "data": n}).to_string()).await;
        }
        publisher.flush().await;
        for _ in 0..500 {
            publisher.expect("published").await;
        }
    });
    while seen < 500 {
        answer = env.poll(&next(&answer)).await;
        assert_eq!(answer["recovered"], true);
        for message in answer["messages"].as_array().unwrap() {
            assert_eq!(message["data"], seen, "in order, each once");
            seen += 1;
        }
        polls += 1;
    }
    publishing.await.unwrap();
    assert!(polls < 250, "{polls} polls for 500 messages");
}
