//! A full disk: publications are refused, readiness reports it, and publishing continues when there is space again.

use std::process::Command;

use serde_json::{Value, json};
use test_support::{TempDir, TestPublisher, eventually};

use crate::crash::Node;

/// Limits the size of the process's files, like a full disk, without the rights to mount one.
fn set_limit(pid: u32, limit: &str) {
    let set = Command::new("prlimit").args([&format!("--pid={pid}"), &format!("--fsize={limit}:unlimited")]).status();
    assert!(set.expect("prlimit of util-linux").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_refuses_then_recovers() {
    let (folder, key) = (TempDir::new(), TestPublisher::new());
    // A write beyond the limit is an error then, and not the end of the process.
    let node = Node::start(&folder, &key, "", &["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    let (mut subscriber, mut publisher) = (node.subscriber().await, node.publisher(&key).await);
    let epoch = subscriber.subscribe("c").await["epoch"].clone();
    let size = std::fs::metadata(folder.path().join("store")).unwrap().len();
    set_limit(node.pid(), &(size + 100_000).to_string());
    let data = "x".repeat(10_000);
    let mut acknowledged = 0u64;
    let publish =
        |n: u64| json!({"type": "publish", "id": n.to_string(), "channel": "c", "data": format!("{n} {data}")});
    // Until nothing more fits.
    let refused: Value = loop {
        publisher.send(publish(acknowledged + 1)).await;
        let answer = publisher.json().await;
        if answer["type"] == "error" {
            break answer;
        }
        acknowledged += 1;
        assert_eq!(answer["offset"], acknowledged);
        assert!(acknowledged < 10_000, "the disk never was full");
    };
    assert_eq!((&refused["code"], &refused["temporary"]), (&json!("engine_unavailable"), &json!(true)));
    eventually("readiness to say so", async || {
        let (status, text) = node.readiness().await;
        (status == 503 && text == "engine-unavailable\n").then_some(())
    })
    .await;
    // The subscriber has all that was acknowledged, and is still there.
    for n in 1..=acknowledged {
        assert_eq!(subscriber.expect("message").await["offset"], n);
    }
    set_limit(node.pid(), "unlimited");
    let position = eventually("room again", async || {
        publisher.send(publish(acknowledged + 1)).await;
        let answer = publisher.json().await;
        (answer["type"] == "published").then_some(answer)
    })
    .await;
    assert_eq!((&position["offset"], &position["epoch"]), (&json!(acknowledged + 1), &epoch));
    assert_eq!(node.readiness().await.0, 200);
    assert_eq!(subscriber.expect("message").await["offset"], acknowledged + 1);
    drop(node);
    let node = Node::start(&folder, &key, "", &[]);
    let mut late = node.subscriber().await;
    let subscribed = late.subscribe_with("c", json!({"since": {"epoch": epoch, "offset": 0}})).await;
    assert_eq!((&subscribed["recovered"], &subscribed["offset"]), (&json!(true), &json!(acknowledged + 1)));
}
