//! `kill -9` of the real program under load: nothing acknowledged is missing, nothing is seen twice or out of order.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lastmile::transport::config::Address;
use serde_json::{Value, json};
use test_support::gateway::LISTENERS;
use test_support::{ChildGateway, TempDir, TestPublisher, Ws, eventually, get, with_timeout};

const KILLS: usize = 20;

/// The program with a store in `folder`.
pub struct Node(ChildGateway);

impl Node {
    /// With the durable engine; `prefix` are words of a command before the program.
    pub fn start(folder: &TempDir, publisher: &TestPublisher, engine: &str, prefix: &[&str]) -> Self {
        Self::with(folder, publisher, &format!("kind = \"disk\"\npath = \"store\"\n{engine}"), prefix)
    }

    pub fn with(folder: &TempDir, publisher: &TestPublisher, engine: &str, prefix: &[&str]) -> Self {
        let toml = format!(
            "{LISTENERS}{}\n\
             [channel_defaults]\nsubscribers = \"anyone\"\nbacklog_messages = 1000000\nbacklog_bytes = 0\n\
             [log]\nformat = \"json\"\n[engine]\n{engine}\n",
            publisher.toml("market-data", &["*"])
        );
        folder.write("lastmile.toml", &toml);
        let words = [prefix, &[env!("CARGO_BIN_EXE_lastmile"), "serve", "--config", "lastmile.toml"]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(folder.path());
        Self(ChildGateway::start(command, folder))
    }

    pub fn address(&self, listener: &str) -> &Address {
        self.0.address(listener)
    }

    pub async fn subscriber(&self) -> Ws {
        let headers = [("sec-websocket-protocol", "lastmile.v1")];
        let mut ws = Ws::connect(self.address("public"), "/v1/subscribe", &headers).await.expect("an upgrade");
        ws.hello(None).await;
        ws
    }

    pub async fn publisher(&self, publisher: &TestPublisher) -> Ws {
        let address = self.address("publish");
        let request = publisher.request(&address.to_string(), "GET", "/v1/publish", None);
        let mut ws = Ws::open(address, request).await.expect("an upgrade");
        ws.expect("welcome").await;
        ws
    }

    pub async fn readiness(&self) -> (u16, String) {
        let answer = get(self.address("ops"), "/readyz").await;
        (answer.status.into(), answer.text().to_owned())
    }

    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    pub fn kill(&mut self) {
        self.0.kill();
    }
}

/// Publishes as fast as it is acknowledged until the connection breaks; gives what was acknowledged, and counts it
/// meanwhile.
pub async fn publish(mut ws: Ws, from: u64, count: Arc<AtomicUsize>) -> Vec<(u64, String, Value)> {
    let mut acknowledged = Vec::new();
    for n in from.. {
        let batch: Vec<u64> = (0..8).map(|m| n * 8 + m).collect();
        for data in &batch {
            let command = json!({"type": "publish", "id": data.to_string(), "channel": "c", "data": data});
            // The connection breaks sooner or later.
            if !ws.try_send_text(&command.to_string()).await {
                return acknowledged;
            }
        }
        for data in batch {
            let Ok(text) = ws.next().await else { return acknowledged };
            let answer: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&answer["type"], &answer["id"]), (&json!("published"), &json!(data.to_string())));
            acknowledged.push((answer["offset"].as_u64().unwrap(), answer["epoch"].to_string(), json!(data)));
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    acknowledged
}

/// Everything that comes until the connection breaks: offsets with their data.
pub async fn listen(mut ws: Ws) -> Vec<(u64, Value)> {
    let mut seen = Vec::new();
    while let Ok(text) = ws.next().await {
        let frame: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(frame["type"], "message");
        seen.push((frame["offset"].as_u64().unwrap(), frame["data"].clone()));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_kill_9_loses_nothing_acknowledged() {
    let (folder, key) = (TempDir::new(), TestPublisher::new());
    let (mut acknowledged, mut seen) = (BTreeMap::new(), Vec::<(u64, Value)>::new());
    let mut epoch = None::<String>;
    for round in 0..=KILLS {
        let mut node = Node::start(&folder, &key, "", &[]);
        // A subscriber that resumes at its cursor misses nothing.
        let mut subscriber = node.subscriber().await;
        let newest = match &epoch {
            None => subscriber.subscribe("c").await["offset"].as_u64().unwrap(),
            Some(epoch) => {
                let offset = seen.last().map_or(0, |(offset, _)| *offset);
                let epoch: Value = serde_json::from_str(epoch).unwrap();
                let since = json!({"since": {"epoch": epoch, "offset": offset}});
                let subscribed = subscriber.subscribe_with("c", since).await;
                assert_eq!((&subscribed["recovered"], &subscribed["epoch"]), (&json!(true), &epoch), "{round}");
                subscribed["offset"].as_u64().unwrap()
            }
        };
        let last = acknowledged.last_key_value().map_or(0, |(offset, _)| *offset);
        assert!(newest >= last, "{round}: {newest} is before {last}, which was acknowledged");
        let listening = tokio::spawn(listen(subscriber));
        let (mut publishing, count) = (Vec::new(), Arc::new(AtomicUsize::new(0)));
        for who in 0..2u64 {
            let ws = node.publisher(&key).await;
            publishing.push(tokio::spawn(publish(ws, (round as u64 * 2 + who) * 1_000_000, count.clone())));
        }
        let random = u64::from(getrandom::u32().unwrap() % 250);
        eventually("some", async || (count.load(Ordering::Relaxed) > 0).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(random)).await;
        node.kill();
        for one in publishing {
            for (offset, of, data) in with_timeout("the publisher", one).await.unwrap() {
                assert_eq!(epoch.get_or_insert(of.clone()), &of, "{round}");
                let before = acknowledged.insert(offset, data.clone());
                assert_eq!(before, None, "{round}: offset {offset} was given twice");
            }
        }
        seen.extend(with_timeout("the subscriber", listening).await.unwrap());
    }
    // The last acknowledged publications may not have reached the subscriber before the kill.
    let node = Node::start(&folder, &key, "", &[]);
    let mut subscriber = node.subscriber().await;
    let epoch: Value = serde_json::from_str(&epoch.unwrap()).unwrap();
    let from = seen.last().map_or(0, |(offset, _)| *offset);
    let newest = subscriber.subscribe_with("c", json!({"since": {"epoch": epoch, "offset": from}})).await;
    for _ in from..newest["offset"].as_u64().unwrap() {
        let message = subscriber.expect("message").await;
        seen.push((message["offset"].as_u64().unwrap(), message["data"].clone()));
    }
    assert!(acknowledged.len() > KILLS, "{} were acknowledged", acknowledged.len());
    let offsets: Vec<u64> = seen.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, (1..=offsets.len() as u64).collect::<Vec<_>>());
    for (offset, data) in &acknowledged {
        assert_eq!(&seen[*offset as usize - 1].1, data, "offset {offset}");
    }
    // And all of it can still be read from the start.
    let mut late = node.subscriber().await;
    let subscribed = late.subscribe_with("c", json!({"since": {"epoch": epoch, "offset": 0}})).await;
    assert_eq!(subscribed["recovered"], true);
    for (offset, data) in &seen {
        let message = late.expect("message").await;
        assert_eq!((&message["offset"], &message["data"]), (&json!(offset), data));
    }
}
