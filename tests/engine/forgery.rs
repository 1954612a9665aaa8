//! Writes of a plain Redis client beside gateways with a cluster key: denial of service is all that they gain.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redis::streams::StreamRangeReply;
use redis::{Commands, Connection, Value as Stored};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use test_support::gateway::{ISSUER, TestGateway};
use test_support::http::send;
use test_support::{RedisServer, TempDir, TestIssuer, Ws, eventually, get};

use crate::gateways::{CLUSTER_KEY, Pair, is_up, readiness, ticket};
use crate::pushed_policy::{control, holds, in_force, is_welcome, jwks_path, rules};

const RULES_PATH: &str = "/v1/control/channels";
const RULES_KEY: &str = "lastmile:once:pushed:channels";
const TAG_KEY: &str = "lastmile:once:pushed:tag";

/// Two gateways, and the attacker's connection to their Redis.
struct Scene {
    pair: Pair,
    redis: Connection,
    server: RedisServer,
}

async fn scene() -> Scene {
    let server = RedisServer::start(false);
    let more = "cluster_key = \"cluster.key\"\n[[channels]]\nmatch = \"support\"\nreplies = true\n";
    let pair = Pair::start(&format!("url = \"{}\"\n{more}", server.url())).await;
    let redis = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    Scene { pair, redis, server }
}

impl Scene {
    fn set(&mut self, key: &str, value: &[u8]) {
        let _: () = self.redis.set(key, value).unwrap();
    }

    fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        self.redis.get(key).unwrap()
    }

    fn publish(&mut self, name: &str, message: &[u8]) {
        let _: u64 = self.redis.publish(name, message).unwrap();
    }

    /// Every node reads what was pushed again.
    fn change_tag(&mut self) {
        self.set(TAG_KEY, b"0123456789abcdef");
    }

    /// Waits until a node has replaced a value of the attacker.
    async fn await_other(&mut self, key: &str, forged: &[u8]) {
        eventually("a value of a node", async || self.get(key).is_some_and(|found| found != forged).then_some(()))
            .await;
    }

    fn nodes(&mut self) -> Vec<String> {
        self.redis.hkeys("lastmile:nodes").unwrap()
    }

    /// The stored publications of a channel.
    fn publications(&mut self, channel: &str) -> Vec<Vec<u8>> {
        let range: StreamRangeReply = self.redis.xrange_all(format!("lastmile:{{/{channel}}}:log")).unwrap();
        range.ids.iter().map(|row| row.get("p").unwrap()).collect()
    }

    /// Publishes `n` through a node, which must give it this offset.
    async fn publish_through(&self, node: usize, n: u64) {
        let answer = send(self.pair.publish_address(node), self.pair.request(n.to_string().as_bytes())).await;
        assert_eq!((answer.status.as_u16(), answer.json()["offset"].as_u64()), (200, Some(n)));
    }

    async fn refused(&self) -> f64 {
        let mut sum = 0.0;
        for gateway in &self.pair.gateways {
            let metrics = get(gateway.address("ops"), "/metrics").await;
            let line =
                metrics.text().lines().find_map(|line| line.strip_prefix("lastmile_cluster_messages_refused_total "));
            sum += line.map_or(0.0, |value| value.parse::<f64>().unwrap());
        }
        sum
    }
}

/// A stored publication with other fields: 1 is the epoch, 2 the offset.
fn with_field(publication: &[u8], at: usize, value: &str) -> Vec<u8> {
    let mut fields: Vec<_> = publication.splitn(8, |byte| *byte == b' ').collect();
    fields[at] = value.as_bytes();
    fields.join(&b' ')
}

fn field(publication: &[u8], at: usize) -> String {
    String::from_utf8(publication.split(|byte| *byte == b' ').nth(at).unwrap().to_vec()).unwrap()
}

/// The publications that arrive are exactly these numbers, from this publisher.
async fn expect_numbers(ws: &mut Ws, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        assert_eq!(expect_genuine(ws).await, n);
    }
}

/// The offset of the next publication, which must be as it was published.
async fn expect_genuine(ws: &mut Ws) -> u64 {
    let frame = ws.expect("message").await;
    assert_eq!((&frame["data"], &frame["publisher"]), (&frame["offset"], &json!("market-data")));
    frame["offset"].as_u64().unwrap()
}

async fn poll_status(gateway: &TestGateway, ticket: &str) -> u16 {
    get(gateway.address("public"), &format!("/v1/poll?channel=c&timeout=0&ticket={ticket}")).await.status.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_or_moved_ticket_opens_nothing() {
    let mut scene = scene().await;
    let key = |ticket: &str| format!("lastmile:once:ticket:{}", URL_SAFE_NO_PAD.encode(Sha256::digest(ticket)));
    let principal = json!({"issuer": ISSUER, "subject": "admin", "scopes": ["top"], "groups": [], "claims": {}, "expires": 1u64 << 40});
    for purpose in ["poll", "subscribe", "events"] {
        let forged = json!({"principal": principal, "purpose": purpose}).to_string();
        scene.set(&key("forged"), forged.as_bytes());
        assert_eq!(poll_status(&scene.pair.gateways[0], "forged").await, 401);
    }
    let ticket = ticket(&scene.pair).await;
    let sealed = scene.get(&key(&ticket)).unwrap();
    assert!(!String::from_utf8_lossy(&sealed).contains("alice"));
    scene.set(&key("moved"), &sealed);
    assert_eq!(poll_status(&scene.pair.gateways[1], "moved").await, 401);
    for junk in [&b""[..], b"\x01", b"null", &sealed[..sealed.len() - 1]] {
        scene.set(&key("junk"), junk);
        assert_eq!(poll_status(&scene.pair.gateways[1], "junk").await, 401);
    }
    // The ticket itself is accepted, by the other node and once.
    let path = format!("/v1/subscribe?ticket={ticket}");
    let other = &scene.pair.gateways[1];
    let open = async || Ws::connect(other.address("public"), &path, &[("sec-websocket-protocol", "lastmile.v1")]).await;
    assert!(open().await.is_ok() && open().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_publication_is_not_delivered() {
    let mut scene = scene().await;
    let mut subscribers = [scene.pair.subscriber(0).await, scene.pair.subscriber(1).await];
    for ws in &mut subscribers {
        ws.subscribe("c").await;
    }
    scene.publish_through(0, 1).await;
    let genuine = scene.publications("c").remove(0);
    let epoch = field(&genuine, 1);
    let now = field(&genuine, 3);
    let zero = "A".repeat(22);
    for forged in [
        format!("p {epoch} 2 {now} j 11 market-data 666"),
        format!("q {epoch} 2 {now} {} {now}000 b{zero} j 11 market-data 666", field(&genuine, 4)),
        format!("q {epoch} 2 {now} attacker {now}000 f{zero} j 11 market-data 666"),
        format!("p {epoch} 9007199254740992 {now} j 11 market-data 666"),
    ] {
        scene.publish("lastmile:{/c}:live", forged.as_bytes());
    }
    let changed = [&genuine[..genuine.len() - 1], b"7"].concat();
    scene.publish("lastmile:{/c}:live", &with_field(&changed, 2, "2"));
    scene.publish_through(1, 2).await;
    for ws in &mut subscribers {
        expect_numbers(ws, 1..=2).await;
    }
    // Forged entries of the log: the mirror reads them as missing.
    let forged = format!("p {epoch} 3 {now} j 11 market-data 666");
    let _: String =
        redis::cmd("XADD").arg("lastmile:{/c}:log").arg("3-0").arg("p").arg(forged).query(&mut scene.redis).unwrap();
    let _: u64 = scene.redis.hset("lastmile:{/c}:state", "offset", 3).unwrap();
    scene.publish("lastmile:{/c}:live", format!("l {epoch}").as_bytes());
    let mut late = Vec::new();
    for (ws, node) in subscribers.iter_mut().zip(0..) {
        assert_eq!(ws.expect("unsubscribed").await["reason"], "engine_unavailable");
        let mut ws = scene.pair.subscriber(node).await;
        ws.subscribe_with("c", json!({"backlog": 10})).await;
        late.push(ws);
    }
    scene.publish_through(0, 4).await;
    for ws in &mut late {
        while expect_genuine(ws).await < 4 {}
    }
    assert!(scene.refused().await > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_or_repeated_publication_is_not_delivered() {
    let mut scene = scene().await;
    let mut subscribers = [scene.pair.subscriber(0).await, scene.pair.subscriber(1).await];
    for ws in &mut subscribers {
        ws.subscribe("c").await;
        ws.subscribe("d").await;
    }
    for n in 1..=3 {
        scene.publish_through(0, n).await;
    }
    let stored = scene.publications("c");
    let epoch_of_d: String = scene.redis.hget("lastmile:{/d}:state", "epoch").unwrap_or_default();
    for publication in &stored {
        // As it is, at the next offset, in another epoch, and in another channel.
        scene.publish("lastmile:{/c}:live", publication);
        scene.publish("lastmile:{/c}:live", &with_field(publication, 2, "4"));
        for offset in ["1", "2", "3"] {
            let moved = with_field(&with_field(publication, 1, &epoch_of_d), 2, offset);
            scene.publish("lastmile:{/d}:live", &moved);
        }
    }
    scene.publish_through(1, 4).await;
    for ws in &mut subscribers {
        expect_numbers(ws, 1..=4).await;
    }
    // A starting node reads a log whose entries were exchanged.
    let stored = scene.publications("c");
    let _: u64 = scene.redis.del("lastmile:{/c}:log").unwrap();
    for (offset, publication) in ["1", "2", "3", "4"].iter().zip([&stored[1], &stored[0], &stored[3], &stored[2]]) {
        let swapped = with_field(publication, 2, offset);
        let id = format!("{offset}-0");
        let _: String =
            redis::cmd("XADD").arg("lastmile:{/c}:log").arg(id).arg("p").arg(swapped).query(&mut scene.redis).unwrap();
    }
    let folder = TempDir::new();
    let third = scene.pair.another(&folder).await;
    let mut late = scene.pair.subscriber_of(&third).await;
    late.subscribe_with("c", json!({"backlog": 10})).await;
    scene.publish_through(0, 5).await;
    expect_numbers(&mut late, 5..=5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_revocation_ends_nothing() {
    let mut scene = scene().await;
    let mut subscribers = [scene.pair.subscriber(0).await, scene.pair.subscriber(1).await];
    for ws in &mut subscribers {
        ws.subscribe("c").await;
    }
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 50;
    let forged = json!({"issuer": ISSUER, "everyone": true, "before": before}).to_string();
    let mut last = String::new();
    for entry in [forged.as_bytes(), b"", b"\x01", b"junk"] {
        last = redis::cmd("XADD").arg("lastmile:told").arg("*").arg("w").arg(entry).query(&mut scene.redis).unwrap();
    }
    let _: String =
        redis::cmd("XADD").arg("lastmile:told").arg("*").arg("other").arg("x").query(&mut scene.redis).unwrap();
    assert!(!last.is_empty());
    // A genuine one behind them is in force on both nodes, so both have read them all.
    let carol = scene.pair.issuer.token("carol");
    let body = json!({"issuer": ISSUER, "subject": "carol"});
    let answer = control(&scene.pair, &scene.pair.gateways[0], "POST", "/v1/control/revocations", Some(body)).await;
    assert_eq!(answer.status, 201);
    let other = &scene.pair.gateways[1];
    eventually("the genuine revocation", async || {
        let headers = [("sec-websocket-protocol", "lastmile.v1")];
        let request = Ws::request(&other.authority("public"), "/v1/subscribe", &headers);
        let mut ws = Ws::open(other.address("public"), request).await.ok()?;
        ws.send(json!({"type": "hello", "token": carol})).await;
        ws.next().await.is_err().then_some(())
    })
    .await;
    scene.publish_through(0, 1).await;
    for ws in &mut subscribers {
        expect_numbers(ws, 1..=1).await;
    }
    assert!(is_welcome(other, &scene.pair.issuer).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_or_old_rules_open_nothing() {
    let mut scene = scene().await;
    let first = &scene.pair.gateways[0];
    assert_eq!(control(&scene.pair, first, "PUT", RULES_PATH, rules("c")).await.status, 204);
    let (old, old_tag) = (scene.get(RULES_KEY).unwrap(), scene.get(TAG_KEY).unwrap());
    assert_eq!(control(&scene.pair, &scene.pair.gateways[0], "PUT", RULES_PATH, rules("d")).await.status, 204);
    let (current, current_tag) = (scene.get(RULES_KEY).unwrap(), scene.get(TAG_KEY).unwrap());
    holds(&scene.pair, &scene.pair.gateways[1], "pushed", "d").await;
    let open = json!({"channels": [], "channel_defaults": {"subscribers": "anyone"}}).to_string();
    for forged in [open.as_bytes(), b"", b"junk", &old, &current[1..]] {
        for tag in [&b"0123456789abcdef"[..], b"", &old_tag] {
            scene.set(RULES_KEY, forged);
            scene.set(TAG_KEY, tag);
            scene.await_other(RULES_KEY, forged).await;
        }
        for gateway in &scene.pair.gateways {
            assert_eq!(in_force(&scene.pair, gateway).await, ("pushed".into(), "d".into()));
        }
    }
    // Removed: the nodes restore them.
    for keys in [&[RULES_KEY][..], &[TAG_KEY], &[RULES_KEY, TAG_KEY]] {
        let _: u64 = scene.redis.del(keys).unwrap();
        scene.await_other(RULES_KEY, b"").await;
        scene.await_other(TAG_KEY, b"").await;
    }
    let folder = TempDir::new();
    let third = scene.pair.another(&folder).await;
    holds(&scene.pair, &third, "pushed", "d").await;
    // Without a node that knows them, a starting one is not ready: the tag names a newer push.
    third.stop().await;
    let Pair { gateways: [first, second], issuer, toml, .. } = scene.pair;
    first.stop().await;
    second.stop().await;
    let folder = TempDir::new();
    folder.write("sso.json", &issuer.jwks());
    folder.write("cluster.key", CLUSTER_KEY);
    for found in [None, Some(&old)] {
        let _: u64 = scene.redis.del(RULES_KEY).unwrap();
        if let Some(found) = found {
            let _: () = scene.redis.set(RULES_KEY, found).unwrap();
        }
        let _: () = scene.redis.set(TAG_KEY, &current_tag).unwrap();
        let fourth = TestGateway::start(&toml, &folder).await;
        eventually("the engine", async || is_up(&fourth).await.then_some(())).await;
        assert_eq!(readiness(&fourth).await.0, 503);
        fourth.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_or_exchanged_keys_admit_no_token() {
    let mut scene = scene().await;
    let next = TestIssuer::new(ISSUER);
    let keys = serde_json::from_str(&next.jwks()).unwrap();
    assert_eq!(control(&scene.pair, &scene.pair.gateways[0], "PUT", &jwks_path(), Some(keys)).await.status, 204);
    assert_eq!(control(&scene.pair, &scene.pair.gateways[0], "PUT", RULES_PATH, rules("c")).await.status, 204);
    for gateway in &scene.pair.gateways {
        eventually("the keys", async || is_welcome(gateway, &next).await.then_some(())).await;
    }
    let key = format!("lastmile:once:pushed:jwks:{ISSUER}");
    let (genuine, rules) = (scene.get(&key).unwrap(), scene.get(RULES_KEY).unwrap());
    let attacker = TestIssuer::new(ISSUER);
    for forged in [format!("1 {} {}", "A".repeat(43), attacker.jwks()).as_bytes(), attacker.jwks().as_bytes(), &rules] {
        scene.set(&key, forged);
        scene.change_tag();
        scene.await_other(&key, forged).await;
        for gateway in &scene.pair.gateways {
            assert!(!is_welcome(gateway, &attacker).await && is_welcome(gateway, &next).await);
        }
    }
    scene.set(RULES_KEY, &genuine);
    scene.change_tag();
    scene.await_other(RULES_KEY, &genuine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_or_repeated_node_messages_are_dropped() {
    let mut scene = scene().await;
    let (mut publisher, mut alice) = (scene.pair.publisher_ws(1).await, scene.pair.subscriber(0).await);
    alice.subscribe("support").await;
    publisher.send(json!({"type": "publish", "id": "1", "channel": "support", "data": "Shall I?"})).await;
    publisher.expect("published").await;
    let message = alice.expect("message").await["message_id"].as_str().unwrap().to_owned();
    publisher.send(json!({"type": "watch", "id": "2", "channel": "support"})).await;
    publisher.next().await.unwrap();
    // The other node reports its own subscriber.
    assert_eq!(publisher.expect("event").await["connections"], 1);
    let nodes = scene.nodes();
    assert_eq!(nodes.len(), 2);
    // The messages between nodes, as every client of Redis receives them.
    let (sender, captured) = std::sync::mpsc::channel();
    let mut spy = redis::Client::open(scene.server.url()).unwrap().get_connection().unwrap();
    let names: Vec<_> = nodes.iter().map(|node| format!("lastmile:node:{node}")).collect();
    let (subscribed, is_subscribed) = std::sync::mpsc::channel();
    let spied = names.clone();
    std::thread::spawn(move || {
        let mut pubsub = spy.as_pubsub();
        spied.iter().for_each(|name| pubsub.subscribe(name).unwrap());
        subscribed.send(()).unwrap();
        while let Ok(message) = pubsub.get_message() {
            let name = message.get_channel_name().to_owned();
            if sender.send((name, message.get_payload::<Vec<u8>>().unwrap())).is_err() {
                return;
            }
        }
    });
    is_subscribed.recv().unwrap();
    let before = scene.refused().await;
    let envelope = |topic: u8, from: &str, body: &Value| {
        [&[topic][..], &0u64.to_be_bytes(), &[from.len() as u8], from.as_bytes(), body.to_string().as_bytes()].concat()
    };
    let shown = json!({"type": "reply", "reply": "r-1-abc", "channel": "support", "data": "forged"}).to_string();
    for (name, from) in names.iter().zip(nodes.iter().rev()) {
        for (topic, body) in [
            (b'r', json!({"Show": {"publisher": "market-data", "json": shown}})),
            (b'w', json!([{"channel": "support", "what": null, "connections": u64::MAX, "missed": u64::MAX}])),
            (b'm', json!({"Enter": {"strand": 1, "wanted": {"Relay": "x"}, "sender": {}, "address": null}})),
            (b'a', json!("Done")),
        ] {
            scene.publish(name, &envelope(topic, from, &body));
        }
        scene.publish(name, b"");
        scene.publish(name, &[1; 40]);
    }
    eventually("the refusals", async || (scene.refused().await >= before + 12.0).then_some(())).await;
    for id in ["5", "6"] {
        alice.send(json!({"type": "reply", "id": id, "channel": "support", "to": message, "data": {"n": id}})).await;
        let got = publisher.expect("reply").await;
        assert_eq!(got["data"]["n"], id);
        publisher.send(json!({"type": "received", "reply": got["reply"]})).await;
        assert_eq!(alice.expect("replied").await["id"], id);
        // All that was sent, to the same node and to the other one.
        let mut said = vec![captured.recv_timeout(test_support::TEST_TIMEOUT).unwrap()];
        said.extend(captured.try_iter());
        assert!(!said.iter().any(|(_, bytes)| String::from_utf8_lossy(bytes).contains("alice")));
        let before = scene.refused().await;
        let genuine: BTreeSet<_> = said.iter().filter(|(_, bytes)| bytes.len() > 60).collect();
        for (_, bytes) in &genuine {
            names.iter().for_each(|name| scene.publish(name, bytes));
        }
        let repeated = genuine.len() as f64 * 2.0;
        eventually("the refusals", async || (scene.refused().await >= before + repeated).then_some(())).await;
        captured.recv_timeout(Duration::from_secs(30)).unwrap();
        while captured.recv_timeout(Duration::from_millis(100)).is_ok() {}
    }
    publisher.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_in_every_key_costs_service_at_most() {
    let mut scene = scene().await;
    let mut ws = scene.pair.subscriber(1).await;
    ws.subscribe("c").await;
    scene.publish_through(0, 1).await;
    expect_numbers(&mut ws, 1..=1).await;
    assert_eq!(control(&scene.pair, &scene.pair.gateways[0], "PUT", RULES_PATH, rules("other")).await.status, 204);
    holds(&scene.pair, &scene.pair.gateways[1], "pushed", "other").await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("lastmile:*").query(&mut scene.redis).unwrap();
    assert!(keys.len() > 5, "{keys:?}");
    let huge = "9".repeat(400);
    for junk in ["", "-1", "18446744073709551615", "\u{1}\u{1}\u{1}", "{}", "p e 1 1 j 0  1", huge.as_str()] {
        for key in &keys {
            let kind: String = redis::cmd("TYPE").arg(key).query(&mut scene.redis).unwrap();
            // Each with a value of its own type, and with one of another.
            match kind.as_str() {
                "hash" => {
                    let fields: Vec<String> = scene.redis.hkeys(key).unwrap();
                    for field in fields.iter().map(String::as_str).chain(["attacker"]) {
                        let _: u64 = scene.redis.hset(key, field, junk).unwrap();
                    }
                }
                "stream" => {
                    let row = [(if key.ends_with("told") { "w" } else { "p" }, junk)];
                    let _: Stored = scene.redis.xadd(key, "*", &row).unwrap();
                }
                _ => scene.set(key, junk.as_bytes()),
            }
            let name = key.replace(":state}", ":live").replace(":log", ":live");
            scene.publish(&name, junk.as_bytes());
        }
        scene.change_tag();
        for gateway in &scene.pair.gateways {
            assert_eq!(get(gateway.address("ops"), "/healthz").await.status, 200, "{junk}");
        }
    }
    let _: () = redis::cmd("FLUSHALL").query(&mut scene.redis).unwrap();
    for (gateway, node) in scene.pair.gateways.iter().zip(0..) {
        eventually("service", async || {
            let answer = send(scene.pair.publish_address(node), scene.pair.request(b"1")).await;
            (answer.status == 200).then_some(())
        })
        .await;
        holds(&scene.pair, gateway, "pushed", "other").await;
    }
}
