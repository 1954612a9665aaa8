//! Restarts of the real program: nothing is answered before the policy in force is known, and what ended a right holds.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::Request;
use lastmile::transport::config::Address;
use serde_json::{Value, json};
use test_support::gateway::{ISSUER, TestEnv};
use test_support::http::{Answer, send};
use test_support::{ChildGateway, RedisServer, TempDir, TestIssuer, TestPublisher, eventually, free_port, get};

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
    let rules = json!({"channels": [{"match": "deal.*", "subscribers": {"scope": "top"}, "backlog_messages": 10}]});
    program.control("PUT", "/v1/control/channels", &rules).await;
    let jwks = format!("/v1/control/jwks/{}", ISSUER.replace(':', "%3A").replace('/', "%2F"));
    program.control("PUT", &jwks, &serde_json::from_str(&next.jwks()).unwrap()).await;
    program.control("POST", "/v1/control/revocations", &json!({"issuer": ISSUER, "subject": "eve"})).await;
    program.control("POST", "/v1/channels/deal.1/messages", &json!("SECRET OFFER")).await;

    let with_scope = |name: &str| next.token_with(name, 3600, |token| token.scopes.push("top".into()));
    let allowed = send(&program.address("public"), program.poll(&with_scope("alice"))).await;
    assert!(allowed.text().contains("SECRET OFFER"), "{allowed:?}");
    // A subject without the scope, a revoked one, and one with a key that was replaced.
    let clients = [(next.token("bob"), 403), (with_scope("eve"), 401), (replaced, 401)];
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
