//! Subscribers that do not read: closed, or kept with the newest publication.

use serde_json::json;
use test_support::TestEnv;

/// More than the kernel's buffers and the outbox take together.
const PUBLICATIONS: usize = 400;

fn rules(slow_consumer: &str) -> String {
    format!(
        "[[channels]]\nmatch = \"c\"\nslow_consumer = \"{slow_consumer}\"\n[limits]\noutbox_bytes = 262144\n\
         ping_secs = 600\noutbox_stall_secs = 600\n"
    )
}

/// Publishes much to `c` while `reader` is the only one who reads. Gives the newest offset.
async fn flood(env: &TestEnv) -> u64 {
    let mut publisher = env.publisher_ws().await;
    let filler = "x".repeat(60_000);
    let mut newest = 0;
    for n in 0..PUBLICATIONS {
        publisher.send(json!({"type": "publish", "channel": "c", "data": {"n": n, "filler": filler}})).await;
        newest = publisher.expect("published").await["offset"].as_u64().unwrap();
    }
    newest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latest_keeps_newest_and_closes_none() {
    let env = TestEnv::start(&rules("latest")).await;
    let mut slow = env.subscriber().await;
    slow.subscribe("c").await;
    let newest = flood(&env).await;
    let (mut last, mut received) = (0, 0);
    while last < newest {
        let offset = slow.expect("message").await["offset"].as_u64().unwrap();
        assert!(offset > last, "{offset} after {last}");
        (last, received) = (offset, received + 1);
    }
    assert!(received < PUBLICATIONS, "the socket took everything: this shows nothing");
    slow.expect_silence().await;
    env.publish("c", "\"again\"").await;
    assert_eq!(slow.expect("message").await["data"], "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_outbox_closes_slow_only() {
    let env = TestEnv::start(&rules("disconnect")).await;
    let mut slow = env.subscriber().await;
    slow.subscribe("c").await;
    let mut good = env.subscriber().await;
    good.subscribe("c").await;
    let reader = tokio::spawn(async move {
        for offset in 1..=PUBLICATIONS {
            assert_eq!(good.expect("message").await["offset"], offset);
        }
        good
    });
    flood(&env).await;
    let mut good = reader.await.unwrap();
    good.expect_silence().await;

    let mut expected = 1;
    let end = loop {
        match slow.next().await {
            Ok(text) => {
                let message: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(message["offset"], expected, "no hole before the end");
                expected += 1;
            }
            Err(end) => break end,
        }
    };
    assert_eq!(end, Some((4001, "slow_consumer".into())));
    assert!(expected < PUBLICATIONS);
    assert_eq!(env.metric("lastmile_slow_consumers_total").await, 1.0);
}
