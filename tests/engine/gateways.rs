//! Whole gateways on one Redis, over real sockets: what is once for all nodes, and readiness.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request};
use lastmile::transport::config::Address;
use serde_json::{Value, json};
use test_support::gateway::{ISSUER, TestEnv, TestGateway};
use test_support::http::{Answer, send};
use test_support::{RedisServer, TempDir, TestIssuer, TestPublisher, Ws, eventually, get, with_timeout};

use crate::crash::{Node as Process, listen, publish};

/// The name of all nodes.
pub const HOST: &str = "nodes.example.com";

/// The file `cluster.key` of each gateway, for tests that name it.
pub const CLUSTER_KEY: &str = "lastmile-seal:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc\n";

/// Two gateways with the same publisher and issuer.
pub struct Pair {
    pub gateways: [TestGateway; 2],
    pub publisher: TestPublisher,
    pub issuer: TestIssuer,
    /// Of the first.
    pub toml: String,
    folders: [TempDir; 2],
}

impl Pair {
    pub async fn start(engine: &str) -> Self {
        Self::with([engine, engine]).await
    }

    /// Each with a way of its own to the same Redis.
    pub async fn with(engines: [&str; 2]) -> Self {
        let (publisher, issuer, folders) =
            (TestPublisher::new(), TestIssuer::new(ISSUER), [TempDir::new(), TempDir::new()]);
        let toml = |engine| {
            let more = format!("[channel_defaults]\nbacklog_messages = 100\n[engine]\nkind = \"redis\"\n{engine}\n");
            let toml = TestEnv::toml(&(publisher.toml("market-data", &["*"]) + "\ncontrol = true"), &more);
            // The nodes have one name, so that each request may be sent to any of them.
            toml.replace("[listeners.publish]", &format!("[listeners.publish]\nhosts = [{HOST:?}]"))
        };
        let [toml, other] = engines.map(toml);
        for folder in &folders {
            folder.write("sso.json", &issuer.jwks());
            folder.write("cluster.key", CLUSTER_KEY);
        }
        let gateways = [TestGateway::start(&toml, &folders[0]).await, TestGateway::start(&other, &folders[1]).await];
        let pair = Self { gateways, publisher, issuer, toml, folders };
        for gateway in &pair.gateways {
            eventually("readiness", async || (readiness(gateway).await.0 == 200).then_some(())).await;
        }
        pair
    }

    pub fn publish_address(&self, node: usize) -> &Address {
        self.gateways[node].address("publish")
    }

    /// A third one, with the same files as the first.
    pub async fn another(&self, folder: &TempDir) -> TestGateway {
        folder.write("sso.json", &self.issuer.jwks());
        folder.write("cluster.key", CLUSTER_KEY);
        let gateway = TestGateway::start(&self.toml, folder).await;
        eventually("readiness", async || (readiness(&gateway).await.0 == 200).then_some(())).await;
        gateway
    }

    /// A signed request with a JSON body.
    pub fn signed(&self, method: &str, path: &str, body: Option<&Value>) -> Request<Bytes> {
        let body = body.map(Value::to_string);
        let body = body.as_ref().map(|body| ("application/json", body.as_bytes()));
        self.publisher.request(HOST, method, path, body)
    }

    /// The publisher's connection to a node.
    pub async fn publisher_ws(&self, node: usize) -> Ws {
        let gateway = &self.gateways[node];
        let request = self.publisher.request(HOST, "GET", "/v1/publish", None);
        let mut ws = Ws::open(gateway.address("publish"), request).await.expect("an upgrade");
        ws.expect("welcome").await;
        ws
    }

    /// A signed request that can be sent to either node.
    pub fn request(&self, body: &[u8]) -> Request<Bytes> {
        let body = Some(("application/json", body));
        self.publisher.request(HOST, "POST", "/v1/channels/c/messages", body)
    }

    pub async fn subscriber(&self, node: usize) -> Ws {
        self.subscriber_of(&self.gateways[node]).await
    }

    pub async fn subscriber_of(&self, gateway: &TestGateway) -> Ws {
        let headers = [("sec-websocket-protocol", "lastmile.v1")];
        let request = Ws::request(&gateway.authority("public"), "/v1/subscribe", &headers);
        let mut ws = Ws::open(gateway.address("public"), request).await.expect("an upgrade");
        ws.hello(Some(&self.issuer.token("alice"))).await;
        ws
    }
}

pub async fn readiness(gateway: &TestGateway) -> (u16, String) {
    let answer = get(gateway.address("ops"), "/readyz").await;
    (answer.status.into(), answer.text().trim().to_owned())
}

/// The next frame, which must be of this type. `degraded` may come before it: on a busy machine Redis is away for long.
pub async fn expect_past_degraded(ws: &mut Ws, kind: &str) -> Value {
    let mut frame = ws.json().await;
    while matches!(frame["type"].as_str(), Some("degraded" | "restored")) {
        frame = ws.json().await;
    }
    assert_eq!(frame["type"], kind, "{frame}");
    frame
}

pub async fn is_up(gateway: &TestGateway) -> bool {
    get(gateway.address("ops"), "/metrics").await.text().lines().any(|line| line == "lastmile_engine_up 1")
}

fn with(mut request: Request<Bytes>, name: &'static str, value: &str) -> Request<Bytes> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publication_crosses_gateways() {
    let server = RedisServer::start(false);
    let pair = Pair::start(&format!("url = \"{}\"", server.url())).await;
    let mut subscribers = [pair.subscriber(0).await, pair.subscriber(1).await];
    for ws in &mut subscribers {
        ws.subscribe("c").await;
    }
    for n in 1..=4u64 {
        let answer =
            send(pair.publish_address(n as usize % 2), pair.request(format!("{{\"n\": {n}}}").as_bytes())).await;
        assert_eq!((answer.status.as_u16(), answer.json()["offset"].as_u64()), (200, Some(n)));
    }
    let mut frames: [Vec<Value>; 2] = Default::default();
    for (ws, frames) in subscribers.iter_mut().zip(&mut frames) {
        for _ in 0..4 {
            frames.push(ws.expect("message").await);
        }
    }
    assert_eq!(frames[0], frames[1], "letter by letter the same");
    let [first, second] = subscribers;
    drop(first);
    drop(second);
    let mut back = pair.subscriber(0).await;
    let since = json!({"since": {"epoch": frames[1][0]["epoch"], "offset": 2}});
    assert_eq!(back.subscribe_with("c", since).await["recovered"], true);
    assert_eq!(back.expect("message").await, frames[1][2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonce_key_and_ticket_count_once_on_all_nodes() {
    let server = RedisServer::start(false);
    let pair = Pair::start(&format!("url = \"{}\"", server.url())).await;
    let request = pair.request(b"1");
    assert_eq!(send(pair.publish_address(0), request.clone()).await.status, 200);
    assert_eq!(send(pair.publish_address(1), request).await.refusal(), (401, "signature-replayed".to_owned()));

    let retry = |body: &[u8]| with(pair.request(body), "idempotency-key", "k1");
    let (one, two) =
        tokio::join!(send(pair.publish_address(0), retry(b"2")), send(pair.publish_address(1), retry(b"2")));
    let later = send(pair.publish_address(1), retry(b"2")).await;
    assert_eq!([&one, &two, &later].map(|answer| answer.json()["offset"].as_u64()), [Some(2); 3]);
    assert_eq!(send(pair.publish_address(1), retry(b"3")).await.problem(), "idempotency-mismatch");
    assert_eq!(send(pair.publish_address(0), pair.request(b"4")).await.json()["offset"], 3);

    let ticket = ticket(&pair).await;
    let open = async |node: usize| {
        let gateway = &pair.gateways[node];
        let path = format!("/v1/subscribe?ticket={ticket}");
        let headers = [("sec-websocket-protocol", "lastmile.v1")];
        Ws::open(gateway.address("public"), Ws::request(&gateway.authority("public"), &path, &headers)).await
    };
    let mut ws = open(1).await.expect("an upgrade");
    assert_eq!(ws.expect("welcome").await["principal"], "alice");
    assert_eq!(open(0).await.err().unwrap().status, 401);
    assert_eq!(open(1).await.err().unwrap().status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_reaches_all_nodes() {
    let server = RedisServer::start(false);
    let pair = Pair::start(&format!("url = \"{}\"", server.url())).await;
    let mut ws = pair.subscriber(1).await;
    let body = json!({"issuer": ISSUER, "subject": "alice"}).to_string();
    let body = Some(("application/json", body.as_bytes()));
    let request = pair.publisher.request(HOST, "POST", "/v1/control/revocations", body);
    let answer = send(pair.publish_address(0), request).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    ws.expect_close(4503, "revoked").await;
    let folder = TempDir::new();
    folder.write("sso.json", &pair.issuer.jwks());
    let third = TestGateway::start(&pair.toml, &folder).await;
    let known = eventually("the revocation", async || {
        let request = pair.publisher.request(HOST, "GET", "/v1/control/revocations", None);
        let answer = send(third.address("publish"), request).await;
        (answer.status == 200).then(|| answer.json()["revocations"][0].clone()).filter(|known| !known.is_null())
    });
    assert_eq!(known.await["subject"], "alice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_listed_with_state_and_load() {
    let server = RedisServer::start(false);
    let pair = Pair::start(&format!("url = \"{}\"", server.url())).await;
    let _ws = pair.subscriber(1).await;
    let nodes = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lastmile"));
        command.args(["nodes", "--config", "lastmile.toml"]).current_dir(pair.folders[0].path());
        let output = command.output().unwrap();
        let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        // It waits a second or two for Redis, which may be little on a busy machine.
        assert!(output.status.success() || errors.contains("timed out"), "{errors}");
        let nodes = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>();
        output.status.success().then_some(nodes)
    };
    eventually("both nodes", async || {
        let nodes = nodes()?;
        let mut connections: Vec<_> = nodes.iter().map(|node| node["connections"].as_u64().unwrap()).collect();
        connections.sort();
        assert!(nodes.iter().all(|node| node["version"] == env!("CARGO_PKG_VERSION")));
        (nodes.iter().all(|node| node["state"] == "ready") && connections == [0, 1]).then_some(())
    })
    .await;
}

/// Subscribes, and retries on temporary errors as clients do: a new node reads channels slowly on a busy machine.
async fn subscribe_with_retries(ws: &mut Ws, more: Value) -> Value {
    let mut command = json!({"type": "subscribe", "id": "s", "channel": "c"});
    command.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    eventually("a subscription", async || {
        ws.send(command.clone()).await;
        let frame = ws.json().await;
        assert!(frame["type"] == "subscribed" || frame["temporary"] == true, "{frame}");
        (frame["type"] == "subscribed").then_some(frame)
    })
    .await
}

/// A node is killed under load: its acknowledged publications are on all nodes, and its subscribers resume on another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_node_affects_no_other() {
    let server = RedisServer::start(false);
    let engine = format!("kind = \"redis\"\nurl = \"{}\"", server.url());
    let (folders, key) = ([(); 3].map(|()| TempDir::new()), TestPublisher::new());
    let mut nodes = folders.each_ref().map(|folder| Process::with(folder, &key, &engine, &[]));
    for node in &nodes {
        eventually("readiness", async || (node.readiness().await.0 == 200).then_some(())).await;
    }
    let mut acknowledged = BTreeMap::new();
    let mut epoch = None;
    let mut seen: Vec<Vec<(u64, Value)>> = vec![Vec::new(); 3];
    for round in 0..4u64 {
        // Subscribers of all three; each comes back to another node than it was on.
        let (mut listening, mut publishing, count) = (Vec::new(), Vec::new(), Arc::new(AtomicUsize::new(0)));
        for (who, seen) in seen.iter().enumerate() {
            let mut ws = nodes[(who + round as usize) % 3].subscriber().await;
            let offset = seen.last().map_or(0, |(offset, _)| *offset);
            let subscribed = match &epoch {
                None => subscribe_with_retries(&mut ws, json!({})).await,
                Some(epoch) => {
                    let since = json!({"since": {"epoch": epoch, "offset": offset}});
                    let subscribed = subscribe_with_retries(&mut ws, since).await;
                    assert_eq!(subscribed["recovered"], true, "round {round}");
                    subscribed
                }
            };
            epoch.get_or_insert(subscribed["epoch"].clone());
            listening.push(tokio::spawn(listen(ws)));
        }
        for (who, node) in nodes.iter().enumerate() {
            let ws = node.publisher(&key).await;
            publishing.push(tokio::spawn(publish(ws, (round * 3 + who as u64) * 1_000_000, count.clone())));
        }
        eventually("some", async || (count.load(Ordering::Relaxed) > 15).then_some(())).await;
        // One dies in the middle; the others end a little later.
        let dies = round as usize % 3;
        nodes[dies].kill();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        nodes.iter_mut().for_each(Process::kill);
        for one in publishing {
            for (offset, _, data) in with_timeout("a publisher", one).await.unwrap() {
                assert!(acknowledged.insert(offset, data).is_none(), "offset {offset} was given twice");
            }
        }
        for (who, one) in listening.into_iter().enumerate() {
            seen[who].extend(with_timeout("a subscriber", one).await.unwrap());
        }
        nodes = folders.each_ref().map(|folder| Process::with(folder, &key, &engine, &[]));
        for node in &nodes {
            eventually("readiness", async || (node.readiness().await.0 == 200).then_some(())).await;
        }
    }
    let mut late = nodes[0].subscriber().await;
    let subscribed = subscribe_with_retries(&mut late, json!({"since": {"epoch": epoch, "offset": 0}})).await;
    assert_eq!(subscribed["recovered"], true);
    let mut all = Vec::new();
    while all.len() as u64 != subscribed["offset"].as_u64().unwrap() {
        let message = late.expect("message").await;
        all.push((message["offset"].as_u64().unwrap(), message["data"].clone()));
    }
    assert!(acknowledged.len() > 50, "{} were acknowledged", acknowledged.len());
    for (offset, data) in &acknowledged {
        assert_eq!(all[*offset as usize - 1], (*offset, data.clone()));
    }
    for seen in &seen {
        assert_eq!(seen[..], all[..seen.len()], "each once and in order");
    }
}

pub async fn ticket(pair: &Pair) -> String {
    let gateway = &pair.gateways[0];
    let request = Request::builder().method(Method::POST).uri("/v1/tickets");
    let request = request.header("host", gateway.authority("public"));
    let request = request.header("authorization", format!("Bearer {}", pair.issuer.token("alice")));
    let answer: Answer = send(gateway.address("public"), request.body(Bytes::new()).unwrap()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_follows_redis() {
    let mut server = RedisServer::start(true);
    let pair = Pair::start(&format!("url = \"{}\"", server.url())).await;
    let mut ws = pair.subscriber(0).await;
    ws.subscribe("c").await;
    assert!(is_up(&pair.gateways[0]).await);
    server.kill();
    for gateway in &pair.gateways {
        let unready = (503, "engine-unavailable".to_owned());
        eventually("unreadiness", async || (readiness(gateway).await == unready).then_some(())).await;
        eventually("the metric", async || (!is_up(gateway).await).then_some(())).await;
    }
    let refused = send(pair.publish_address(0), pair.request(b"1")).await;
    assert_eq!(refused.refusal(), (503, "engine-unavailable".to_owned()));
    assert_eq!(ws.expect("degraded").await["channel"], "c");
    server.restart();
    for gateway in &pair.gateways {
        eventually("readiness", async || (readiness(gateway).await.0 == 200).then_some(())).await;
    }
    assert_eq!(send(pair.publish_address(1), pair.request(b"2")).await.status, 200);
    let mut frames = [ws.json().await, ws.json().await];
    frames.sort_by_key(|frame| frame["type"].to_string());
    assert_eq!((&frames[0]["data"], &frames[1]["type"]), (&json!(2), &json!("restored")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documented_redis_rights_suffice() {
    let server = RedisServer::start(false);
    let documents = include_str!("../../docs/engines.md");
    let (_, rights) = documents.split_once("ACL SETUSER gateway on >…").unwrap();
    let (rights, _) = rights.split_once('`').unwrap();
    // They came with Redis 7, and what is unknown cannot be allowed.
    let is_old = server.command("INFO server").unwrap().contains("redis_version:6.");
    let unknown = |word: &&str| is_old && ["+spublish", "+ssubscribe", "+sunsubscribe"].contains(word);
    let words: Vec<_> = rights.split_whitespace().filter(|word| !unknown(word)).collect();
    let answer = server.command(&format!("ACL SETUSER gateway on >a:secret@word {}", words.join(" ")));
    assert_eq!(answer.as_deref(), Some("+OK\r\n"), "{words:?}");
    server.command("ACL SETUSER default off").unwrap();
    let password = server.folder().write("password", "a:secret@word\n");
    let url = server.url().replace("redis://", "redis://gateway@");
    let pair = Pair::start(&format!("url = \"{url}\"\npassword_file = {password:?}")).await;
    let mut ws = pair.subscriber(1).await;
    ws.subscribe("c").await;
    assert_eq!(send(pair.publish_address(0), pair.request(b"1")).await.status, 200);
    assert_eq!(ws.expect("message").await["data"], 1);
}
