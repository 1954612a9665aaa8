//! Many publishers, and subscribers that join and leave: each receives every message once, in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use test_support::{TestEnv, Ws};

const CHANNELS: usize = 4;
const PUBLISHERS: usize = 3;
/// Of each publisher on each channel.
const MESSAGES: usize = 100;
const SUBSCRIBERS: usize = 200;

/// Reads until the channels' last offsets; checks that nothing is missing and each publisher's order is kept.
async fn read_all(mut ws: Ws, channels: Vec<String>) -> Vec<Vec<String>> {
    let mut seen: HashMap<String, Vec<String>> = channels.iter().map(|name| (name.clone(), Vec::new())).collect();
    let mut newest: HashMap<(String, u64), i64> = HashMap::new();
    for _ in 0..channels.len() * PUBLISHERS * MESSAGES {
        let message = ws.expect("message").await;
        let channel = message["channel"].as_str().unwrap().to_owned();
        let messages = seen.get_mut(&channel).expect("a channel that was asked for");
        messages.push(message["data"].to_string());
        assert_eq!(message["offset"], messages.len(), "on {channel}");
        let (publisher, n) = (message["data"]["p"].as_u64().unwrap(), message["data"]["n"].as_i64().unwrap());
        let before = newest.insert((channel, publisher), n).unwrap_or(-1);
        assert_eq!(n, before + 1);
    }
    ws.expect_silence().await;
    channels.iter().map(|name| seen.remove(name).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_while_subscribers_change() {
    let env = Arc::new(TestEnv::start("").await);
    let mut readers = Vec::new();
    for n in 0..SUBSCRIBERS {
        let mut ws = env.subscriber().await;
        // Each subscriber has two of the channels.
        let channels = vec![format!("c.{}", n % CHANNELS), format!("c.{}", (n + 1) % CHANNELS)];
        for channel in &channels {
            ws.subscribe(channel).await;
        }
        readers.push(tokio::spawn(read_all(ws, channels)));
    }
    let done = Arc::new(AtomicBool::new(false));
    let visitors = (0..4).map(|n| {
        let (env, done) = (env.clone(), done.clone());
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let mut ws = env.subscriber().await;
                ws.send(serde_json::json!({"type": "subscribe", "channel": format!("c.{n}")})).await;
                // Some leave with a word, some just go.
                let _ = ws.next().await;
                if n % 2 == 0 {
                    ws.send(serde_json::json!({"type": "unsubscribe", "channel": format!("c.{n}")})).await;
                }
            }
        })
    });
    let visitors: Vec<_> = visitors.collect();
    let publishers = (0..PUBLISHERS).map(|p| {
        let env = env.clone();
        tokio::spawn(async move {
            let mut ws = env.publisher_ws().await;
            for n in 0..MESSAGES {
                for channel in 0..CHANNELS {
                    let data = format!(r#"{{"type":"publish","channel":"c.{channel}","data":{{"p":{p},"n":{n}}}}}"#);
                    ws.feed(data).await;
                }
                ws.flush().await;
                for _ in 0..CHANNELS {
                    ws.expect("published").await;
                }
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    let mut all: HashMap<usize, Vec<String>> = HashMap::new();
    for (n, reader) in readers.into_iter().enumerate() {
        let seen = reader.await.unwrap();
        for (channel, messages) in [n % CHANNELS, (n + 1) % CHANNELS].into_iter().zip(seen) {
            // The same order for all.
            assert_eq!(*all.entry(channel).or_insert_with(|| messages.clone()), messages);
        }
    }
    done.store(true, Ordering::Relaxed);
    for visitor in visitors {
        visitor.await.unwrap();
    }
    let published = (CHANNELS * PUBLISHERS * MESSAGES) as f64;
    assert_eq!(env.metric("lastmile_publications_total").await, published);
}
