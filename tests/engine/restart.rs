//! Restarts of the real program: nothing is answered before the policy in force is known, and what ended a right holds.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Request;
use lastmile::auth::token::TokenRequest;
use lastmile::transport::config::Address;
use serde_json::{Value, json};
use test_support::gateway::{ISSUER, TestEnv, TestGateway};
use test_support::http::{Answer, send};
use test_support::{
    ChildGateway, RedisServer, TempDir, TestIssuer, TestPublisher, Ws, eventually, free_port, get, unix_now,
};

use crate::gateways::Pair;

const JWKS: &str = "/v1/control/jwks/https%3A%2F%2Fsso.example.com";

/// Rules that are stricter than those of the files.
fn top_secret() -> Value {
    json!({"channels": [{"match": "deal.*", "subscribers": {"scope": "top"}, "backlog_messages": 10}]})
}

const LISTENERS: [&str; 3] = ["public", "publish", "ops"];

/// The program at the same addresses over restarts.
pub struct Program {
    pub publisher: TestPublisher,
    pub issuer: TestIssuer,
    pub folder: TempDir,
    ports: [u16; 3],
    pub process: Option<ChildGateway>,
}

impl Program {
    /// `more` is appended to the configuration.
    pub fn new(more: &str) -> Self {
        let (publisher, issuer, folder) = (TestPublisher::new(), TestIssuer::new(ISSUER), TempDir::new());
        let publishers = publisher.toml("market-data", &["*"]) + "\ncontrol = true";
        folder.write("lastmile.toml", &TestEnv::toml(&publishers, more));
        folder.write("sso.json", &issuer.jwks());
        Self { publisher, issuer, folder, ports: LISTENERS.map(|_| free_port()), process: None }
    }

    pub fn start(more: &str) -> Self {
        let mut program = Self::new(more);
        program.restart();
        program
    }

    /// `SIGKILL`, then a start that ends with readiness.
    pub fn restart(&mut self) {
        self.process = None;
        self.process = Some(ChildGateway::start(self.command(&[]), &self.folder));
    }

    /// `prefix` are words of a command before the program.
    pub fn command(&self, prefix: &[&str]) -> Command {
        let words = [prefix, &[env!("CARGO_BIN_EXE_lastmile"), "serve", "--config", "lastmile.toml"]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(self.folder.path());
        for (listener, port) in LISTENERS.iter().zip(self.ports) {
            command.args(["--set", &format!("listeners.{listener}.address=127.0.0.1:{port}")]);
        }
        command
    }

    pub fn address(&self, listener: &str) -> Address {
        let port = LISTENERS.iter().zip(self.ports).find(|(name, _)| **name == listener).unwrap().1;
        Address::Tcp(([127, 0, 0, 1], port).into())
    }

    pub fn signed(&self, method: &str, path: &str, body: Option<&Value>) -> Request<Bytes> {
        let body = body.map(Value::to_string);
        let body = body.as_ref().map(|body| ("application/json", body.as_bytes()));
        self.publisher.request(&self.address("publish").to_string(), method, path, body)
    }

    pub async fn control(&self, method: &str, path: &str, body: &Value) {
        let answer = send(&self.address("publish"), self.signed(method, path, Some(body))).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }

    pub fn poll(&self, token: &str) -> Request<Bytes> {
        poll(&self.address("public"), token)
    }
}

fn poll(address: &Address, token: &str) -> Request<Bytes> {
    let request = Request::get("/v1/poll?channel=deal.1&backlog=5").header("host", address.to_string());
    request.header("authorization", format!("Bearer {token}")).body(Bytes::new()).unwrap()
}

/// A process that is not awaited to be ready; killed when it is dropped.
struct Starting(Child);

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The answer to a request that may find no listener, or one that ends.
async fn try_send(address: &Address, request: Request<Bytes>) -> Option<Answer> {
    let Address::Tcp(address) = address.clone() else { panic!("{address}") };
    tokio::net::TcpStream::connect(address).await.ok()?;
    tokio::spawn(async move { send(&Address::Tcp(address), request).await }).await.ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_node_serves_no_secret() {
    let server = RedisServer::start(true);
    let mut program = Program::start(&format!(
        "[channel_defaults]\nbacklog_messages = 10\n[engine]\nkind = \"redis\"\nurl = {:?}\n",
        server.url()
    ));
    let (next, replaced) = (TestIssuer::new(ISSUER), program.issuer.token("alice"));
    program.control("PUT", "/v1/control/channels", &top_secret()).await;
    program.control("PUT", JWKS, &serde_json::from_str(&next.jwks()).unwrap()).await;
    let with_scope = |name: &str| next.token_with(name, 3600, |token| token.scopes.push("top".into()));
    // Issued before the revocation, which ends earlier tokens only.
    let revoked = with_scope("eve");
    program.control("POST", "/v1/control/revocations", &json!({"issuer": ISSUER, "subject": "eve"})).await;
    program.control("POST", "/v1/channels/deal.1/messages", &json!("SECRET OFFER")).await;

    let allowed = send(&program.address("public"), program.poll(&with_scope("alice"))).await;
    assert!(allowed.text().contains("SECRET OFFER"), "{allowed:?}");
    // A subject without the scope, a revoked one, and one with a key that was replaced.
    let clients = [(next.token("bob"), 403), (revoked, 401), (replaced, 401)];
    let (is_over, refused) = (Arc::new(AtomicBool::new(false)), Arc::new([0; 3].map(AtomicUsize::new)));
    let pollers = clients.into_iter().enumerate().map(|(client, (token, expected))| {
        let (address, is_over, refused) = (program.address("public"), is_over.clone(), refused.clone());
        tokio::spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                match try_send(&address, poll(&address, &token)).await.map(|answer| answer.status.as_u16()) {
                    Some(status) if status == expected => {
                        refused[client].fetch_add(1, Ordering::Relaxed);
                    }
                    None | Some(503) => {}
                    Some(status) => panic!("client {client}: {status}"),
                }
            }
        })
    });
    let pollers: Vec<_> = pollers.collect();
    for _ in 0..9 {
        program.restart();
        let before = refused.each_ref().map(|count| count.load(Ordering::Relaxed));
        eventually("a refusal of each client", async || {
            let has_risen = |(count, before): (&AtomicUsize, _)| count.load(Ordering::Relaxed) > before;
            refused.iter().zip(before).all(has_risen).then_some(())
        })
        .await;
    }
    is_over.store(true, Ordering::Relaxed);
    for poller in pollers {
        poller.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_without_redis_refuses_until_it_returns() {
    let mut server = RedisServer::start(true);
    server.kill();
    let program = Program::new(&format!("[engine]\nkind = \"redis\"\nurl = {:?}\n", server.url()));
    let mut command = program.command(&[]);
    let process = Starting(command.stderr(Stdio::null()).spawn().unwrap());
    let (public, ops) = (program.address("public"), program.address("ops"));
    let probe = async |path: &'static str| {
        let request = Request::get(path).header("host", ops.to_string()).body(Bytes::new()).unwrap();
        try_send(&ops, request).await.map(|answer| answer.status.as_u16())
    };
    eventually("the listener of operators", async || (probe("/healthz").await == Some(200)).then_some(())).await;
    assert_eq!(probe("/readyz").await, Some(503));
    let token = program.issuer.token("alice");
    let requests = [
        (&public, program.poll(&token)),
        (&public, program.poll("rubbish")),
        (&program.address("publish"), program.signed("POST", "/v1/channels/a/messages", Some(&json!(1)))),
        (&program.address("publish"), program.signed("GET", "/v1/control/channels", None)),
    ];
    for (address, request) in requests {
        let answer = send(address, request).await;
        assert_eq!(answer.refusal(), (503, "engine-unavailable".to_owned()));
        assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
    }
    server.restart();
    eventually("readiness", async || (probe("/readyz").await == Some(200)).then_some(())).await;
    let request = program.signed("POST", "/v1/channels/a/messages", Some(&json!(1)));
    assert_eq!(send(&program.address("publish"), request).await.status, 200);
    drop(process);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_while_store_is_read() {
    let mut program =
        Program::start("[channel_defaults]\nbacklog_messages = 10\n[engine]\nkind = \"disk\"\npath = \"store\"\n");
    program.control("POST", "/v1/channels/deal.1/messages", &json!("kept")).await;
    program.process = None;
    // Each read of the store takes a second.
    let store = program.folder.path().join("store").display().to_string();
    let slow = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", &store, "-e", "inject=pread64:delay_enter=1000000"];
    let mut command = program.command(&slow);
    let process = Starting(command.stderr(Stdio::null()).spawn().unwrap());
    let ops = program.address("ops");
    eventually("a probe", async || tokio::net::TcpStream::connect(ops.to_string()).await.ok()).await;
    assert_eq!((get(&ops, "/healthz").await.status.as_u16(), get(&ops, "/healthz").await.text()), (200, "ok\n"));
    let unready = get(&ops, "/readyz").await;
    assert_eq!((unready.status.as_u16(), unready.text()), (503, "starting\n"));
    // `strace` would leave the program running.
    let pids = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", process.0.id())).unwrap();
    for pid in pids.split_whitespace() {
        assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
    }
    drop(process);
    program.restart();
    let answer = send(&program.address("public"), program.poll(&program.issuer.token("alice"))).await;
    assert!(answer.text().contains("kept"), "{answer:?}");
}

/// Signs at these offsets from now, in seconds. Nonces of earlier processes are known unless the engine forgets them.
async fn used_signatures_stay_used(engine: &str, offsets: &[i64]) {
    let mut program = Program::start(&format!("[engine]\n{engine}\n"));
    if engine != "kind = \"memory\"" {
        // The first process of a store knows of no earlier one.
        program.restart();
    }
    let (publish, authority) = (program.address("publish"), program.address("publish").to_string());
    let mut used = Vec::new();
    for (offset, (method, path)) in offsets.iter().flat_map(|offset| {
        [("POST", "/v1/channels/a/messages"), ("DELETE", "/v1/control/channels"), ("GET", "/v1/publish")]
            .map(|request| (offset, request))
    }) {
        let body = (method == "POST").then_some(("application/json", b"1".as_slice()));
        let created = unix_now().saturating_add_signed(*offset);
        let request = program.publisher.request_at(&authority, method, path, body, created);
        match path {
            "/v1/publish" => {
                Ws::open(&publish, request.clone()).await.expect("an upgrade").expect("welcome").await;
            }
            _ => assert!(send(&publish, request.clone()).await.status.is_success(), "{offset} {method}"),
        }
        used.push(request);
    }
    for restart in 0..2 {
        program.restart();
        // A listener that a client finds accepts what the client then signs.
        let fresh = send(&publish, program.signed("POST", "/v1/channels/a/messages", Some(&json!(2)))).await;
        assert_eq!(fresh.status, 200, "{fresh:?}");
        for request in &used {
            let (uri, answer) = (
                request.uri().clone(),
                match request.uri().path() {
                    "/v1/publish" => Ws::open(&publish, request.clone()).await.err().expect("a refusal"),
                    _ => send(&publish, request.clone()).await,
                },
            );
            let refusal = answer.refusal();
            assert!(["signature-stale", "signature-replayed"].contains(&&*refusal.1), "{restart} {uri} {refusal:?}");
            let is_temporary = !answer.header("retry-after").is_empty();
            assert_eq!(is_temporary, refusal.1 == "signature-stale", "{answer:?}");
            assert_eq!(answer.json()["temporary"], is_temporary, "{answer:?}");
            assert!(!answer.header("date").is_empty(), "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_refuses_signatures_before_start() {
    used_signatures_stay_used("kind = \"memory\"", &[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_remembers_used_signatures() {
    used_signatures_stay_used(DISK, &[0, 50, -30]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_remembers_used_signatures() {
    let server = RedisServer::start(true);
    used_signatures_stay_used(&format!("kind = \"redis\"\nurl = {:?}", server.url()), &[0, 50, -30]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn future_signature_waits_after_start() {
    let mut program = Program::start("[engine]\nkind = \"memory\"\n");
    program.restart();
    let authority = program.address("publish").to_string();
    let body = Some(("application/json", b"1".as_slice()));
    for offset in [-30, -5, 10, 50] {
        let created = unix_now().saturating_add_signed(offset);
        let request = program.publisher.request_at(&authority, "POST", "/v1/channels/a/messages", body, created);
        let answer = send(&program.address("publish"), request).await;
        assert_eq!(answer.refusal(), (401, "signature-stale".to_owned()), "{offset}");
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait), "{offset}: {wait}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("its clock shows"), "{answer:?}");
    }
    // A difference of the clocks stays an error.
    let request = program.publisher.request_at(&authority, "POST", "/v1/channels/a/messages", body, unix_now() - 70);
    let answer = send(&program.address("publish"), request).await;
    assert_eq!((answer.refusal().1.as_str(), answer.header("retry-after")), ("signature-stale", ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_key_does_not_reopen_signatures() {
    let (publisher, other, folder) = (TestPublisher::new(), TestPublisher::new(), TempDir::new());
    folder.write("sso.json", &TestIssuer::new(ISSUER).jwks());
    let with = TestEnv::toml(&publisher.toml("market-data", &["*"]), "");
    let without = TestEnv::toml(&other.toml("market-data", &["*"]), "");
    let gateway = TestGateway::start(&with, &folder).await;
    let publish = gateway.address("publish");
    let body = Some(("application/json", b"1".as_slice()));
    let used = publisher.request(&gateway.authority("publish"), "POST", "/v1/channels/a/messages", body);
    assert_eq!(send(publish, used.clone()).await.status, 200);
    gateway.reload(&without, &folder).unwrap();
    assert_eq!(send(publish, used.clone()).await.refusal(), (401, "key-unknown".to_owned()));
    gateway.reload(&with, &folder).unwrap();
    assert_eq!(send(publish, used).await.refusal(), (401, "signature-replayed".to_owned()));
}

/// Revokes tokens in each way, restarts, and looks whether the revocations hold.
async fn revocations_hold(engine: &str) {
    let mut program = Program::start(&format!("[engine]\n{engine}\n"));
    let with_sid = |token: &mut TokenRequest| drop(token.claims.insert("sid".into(), "s1".into()));
    let tokens =
        [program.issuer.token("bob"), program.issuer.token_with("carol", 3600, with_sid), program.issuer.token("dave")];
    let payload = URL_SAFE_NO_PAD.decode(tokens[2].split('.').nth(1).unwrap()).unwrap();
    let id = serde_json::from_slice::<Value>(&payload).unwrap()["jti"].as_str().unwrap().to_owned();
    let free = program.issuer.token("alice");
    let is_accepted = async |program: &Program, token: &str| {
        let request = Request::post("/v1/tickets").header("host", program.address("public").to_string());
        let request = request.header("authorization", format!("Bearer {token}")).body(Bytes::new()).unwrap();
        send(&program.address("public"), request).await.status == 201
    };
    for (what, value) in [("subject", "bob"), ("session", "s1"), ("token_id", &*id)] {
        program.control("POST", "/v1/control/revocations", &json!({"issuer": ISSUER, what: value})).await;
    }
    for restart in 0..3 {
        for token in &tokens {
            assert!(!is_accepted(&program, token).await, "{restart}");
        }
        assert!(is_accepted(&program, &free).await, "{restart}");
        program.restart();
    }
    let listed = send(&program.address("publish"), program.signed("GET", "/v1/control/revocations", None)).await;
    assert_eq!(listed.json()["revocations"].as_array().map(Vec::len), Some(3), "{listed:?}");
    program.control("POST", "/v1/control/revocations", &json!({"issuer": ISSUER, "everyone": true})).await;
    program.restart();
    assert!(!is_accepted(&program, &free).await);
}

/// The memory engine with a file for the rest.
const LEDGER: &str = "kind = \"memory\"\nledger = \"ledger\"";

const DISK: &str = "kind = \"disk\"\npath = \"store\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_with_ledger_forgets_no_end_of_rights() {
    revocations_hold(LEDGER).await;
    pushed_policy_holds(LEDGER).await;
    used_signatures_stay_used(LEDGER, &[0, 50, -30]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_keeps_pushed_policy_over_restart() {
    pushed_policy_holds(DISK).await;
}

async fn pushed_policy_holds(engine: &str) {
    let mut program = Program::start(&format!("[engine]\n{engine}\n"));
    let (next, replaced) = (TestIssuer::new(ISSUER), program.issuer.token("alice"));
    program.control("PUT", JWKS, &serde_json::from_str(&next.jwks()).unwrap()).await;
    program.control("PUT", "/v1/control/channels", &top_secret()).await;
    for restart in 0..3 {
        let status = async |token: &str| send(&program.address("public"), program.poll(token)).await.status.as_u16();
        assert_eq!((status(&next.token("bob")).await, status(&replaced).await), (403, 401), "{restart}");
        program.restart();
    }
    program.control("DELETE", "/v1/control/channels", &Value::Null).await;
    program.restart();
    let listed = send(&program.address("publish"), program.signed("GET", "/v1/control/channels", None)).await;
    assert_eq!(listed.json()["source"], "files");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_keeps_revocations_over_restart() {
    revocations_hold(DISK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_keeps_revocations_over_restart() {
    let server = RedisServer::start(true);
    revocations_hold(&format!("kind = \"redis\"\nurl = {:?}", server.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_is_restored_after_redis_loss() {
    let mut server = RedisServer::start(false);
    let pair = Pair::start(&format!("url = {:?}", server.url())).await;
    let revocation = json!({"issuer": ISSUER, "subject": "eve"});
    let body = revocation.to_string();
    let body = Some(("application/json", body.as_bytes()));
    let request = pair.publisher.request(crate::gateways::HOST, "POST", "/v1/control/revocations", body);
    assert_eq!(send(pair.publish_address(0), request).await.status, 201);
    server.kill();
    server.restart();
    eventually("the revocation in Redis", async || {
        let log = server.command("XRANGE lastmile:told - +")?;
        log.contains("eve").then_some(())
    })
    .await;
    // A node that knows nothing else.
    let folder = TempDir::new();
    let third = pair.another(&folder).await;
    let address = third.address("public");
    assert_eq!(send(address, poll(address, &pair.issuer.token("eve"))).await.status, 401);
}
