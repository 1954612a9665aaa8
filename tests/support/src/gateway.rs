//! A gateway in this process, made from the text of a configuration file.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::Request;
use bytes::Bytes;
use lastmile::config::{self, Sources};
use lastmile::gateway::{DrainReport, Gateway, Reloader};
use lastmile::transport::config::Address;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::http::{self, Answer};
use crate::keys::{TestIssuer, TestPublisher};
use crate::temp_dir::TempDir;
use crate::with_timeout;
use crate::ws::Ws;

/// A running gateway.
pub struct TestGateway {
    addresses: BTreeMap<String, Address>,
    reloader: Reloader,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<DrainReport>,
}

impl TestGateway {
    /// `folder` holds the files that the configuration names.
    pub async fn start(toml: &str, folder: &TempDir) -> Self {
        let loaded = load(toml, folder).unwrap();
        let gateway = Gateway::bind(loaded, false).unwrap();
        let addresses = gateway.listeners().map(|(listener, address)| (listener.name.clone(), address)).collect();
        let reloader = gateway.reloader();
        let (shutdown, stopped) = oneshot::channel();
        let task = tokio::spawn(gateway.run(async {
            // A test that ends without a drain drops its side.
            let _ = stopped.await;
        }));
        Self { addresses, reloader, shutdown, task }
    }

    pub fn address(&self, listener: &str) -> &Address {
        &self.addresses[listener]
    }

    /// Host and port as a client writes them.
    pub fn authority(&self, listener: &str) -> String {
        self.address(listener).to_string()
    }

    /// Takes a new policy, as after SIGHUP.
    pub fn reload(&self, toml: &str, folder: &TempDir) -> Result<(), String> {
        let config = load(toml, folder)?;
        self.reloader.reload(config.policy).map_err(|error| error.to_string())
    }

    /// Begins the drain; the report comes at its end.
    pub fn shut_down(self) -> JoinHandle<DrainReport> {
        let _ = self.shutdown.send(());
        self.task
    }

    pub async fn stop(self) -> DrainReport {
        with_timeout("the end of the drain", self.shut_down()).await.unwrap()
    }
}

fn load(toml: &str, folder: &TempDir) -> Result<config::Config, String> {
    let file = folder.write("lastmile.toml", toml);
    let sources = Sources { file: Some(file), ..Sources::default() };
    Ok(config::load(&sources).map_err(|error| error.to_string())?.config)
}

/// The environment of most tests: a gateway with the listeners `public`, `publish` and `ops`, one publisher (`market-data`)
/// and one issuer.
pub struct TestEnv {
    pub gateway: TestGateway,
    /// Other nodes of the same engine.
    pub others: Vec<TestGateway>,
    next: AtomicUsize,
    /// Dropped after the gateways, for example their Redis.
    _kept: Option<Box<dyn Any + Send + Sync>>,
    pub folder: TempDir,
    pub publisher: TestPublisher,
    pub issuer: TestIssuer,
}

/// The listeners of most tests. `public` is the last table, so more of its settings may follow.
pub const LISTENERS: &str = r#"
[listeners.publish]
address = "127.0.0.1:0"
roles = ["publish"]
[listeners.ops]
address = "127.0.0.1:0"
roles = ["ops"]
[listeners.public]
address = "127.0.0.1:0"
roles = ["subscribe"]
"#;

pub const ISSUER: &str = "https://sso.example.com";

impl TestEnv {
    /// `more` is appended to the configuration: channels, limits, listeners.
    pub async fn start(more: &str) -> Self {
        let (publisher, issuer, folder) = (TestPublisher::new(), TestIssuer::new(ISSUER), TempDir::new());
        let toml = Self::toml(&publisher.toml("market-data", &["*"]), more);
        folder.write("sso.json", &issuer.jwks());
        let gateway = TestGateway::start(&toml, &folder).await;
        Self::of(gateway, folder, publisher, issuer)
    }

    pub fn of(gateway: TestGateway, folder: TempDir, publisher: TestPublisher, issuer: TestIssuer) -> Self {
        Self { gateway, others: Vec::new(), next: AtomicUsize::new(0), _kept: None, folder, publisher, issuer }
    }

    /// So many nodes of one engine, which `more` names; `kept` is dropped after them.
    pub async fn start_nodes(nodes: usize, more: &str, kept: impl Any + Send + Sync) -> Self {
        let mut env = Self::start(more).await;
        let toml = Self::toml(&env.publisher.toml("market-data", &["*"]), more);
        for _ in 1..nodes {
            env.others.push(TestGateway::start(&toml, &env.folder).await);
        }
        env._kept = Some(Box::new(kept));
        for node in env.nodes() {
            crate::eventually("readiness", async || {
                (http::get(node.address("ops"), "/readyz").await.status == 200).then_some(())
            })
            .await;
        }
        env
    }

    pub fn nodes(&self) -> impl Iterator<Item = &TestGateway> {
        std::iter::once(&self.gateway).chain(&self.others)
    }

    /// Where the next connection goes: to each node in turn.
    pub fn next_address(&self, listener: &str) -> &Address {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % (self.others.len() + 1);
        self.nodes().nth(next).unwrap_or(&self.gateway).address(listener)
    }

    /// A whole configuration with these publishers.
    pub fn toml(publishers: &str, more: &str) -> String {
        // Without settings of its own, a test does not wait for a drain.
        let drain = if more.contains("[drain]") { "" } else { "[drain]\nwindow_secs = 0\ndeadline_secs = 10\n" };
        format!(
            r#"
            {LISTENERS}
            {publishers}
            [[issuers]]
            issuer = "{ISSUER}"
            audience = "lastmile"
            jwks_file = "sso.json"
            {drain}{more}"#
        )
    }

    pub fn reload(&self, publishers: &str, more: &str) {
        self.gateway.reload(&Self::toml(publishers, more), &self.folder).unwrap();
    }

    /// A request to the listener `publish`, signed by the publisher.
    pub fn request(&self, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Request<Bytes> {
        self.publisher.request(&self.gateway.authority("publish"), method, path, body)
    }

    /// Sends a request as it is to the listener `publish`.
    pub async fn send(&self, request: Request<Bytes>) -> Answer {
        http::send(self.gateway.address("publish"), request).await
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Answer {
        self.send(self.request(method, path, body)).await
    }

    /// Publishes a body of a type; gives whatever comes.
    pub async fn post(&self, channel: &str, content_type: &str, body: &[u8]) -> Answer {
        self.call("POST", &format!("/v1/channels/{channel}/messages"), Some((content_type, body))).await
    }

    /// Publishes JSON, which must be taken; gives the answer.
    pub async fn publish(&self, channel: &str, data: &str) -> Value {
        let answer = self.post(channel, "application/json", data.as_bytes()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// A publishing WebSocket, after its `welcome`.
    pub async fn publisher_ws(&self) -> Ws {
        let mut ws = self.open_publisher(&self.publisher).await.expect("an upgrade");
        ws.expect("welcome").await;
        ws
    }

    pub async fn open_publisher(&self, publisher: &TestPublisher) -> Result<Ws, Answer> {
        let request = publisher.request(&self.gateway.authority("publish"), "GET", "/v1/publish", None);
        Ws::open(self.gateway.address("publish"), request).await
    }

    /// A connection to the listener `public`, before `hello`.
    pub async fn connect(&self) -> Ws {
        self.connect_with(&[("sec-websocket-protocol", "lastmile.v1")]).await.expect("an upgrade")
    }

    pub async fn connect_with(&self, headers: &[(&str, &str)]) -> Result<Ws, Answer> {
        let request = Ws::request(&self.gateway.authority("public"), "/v1/subscribe", headers);
        Ws::open(self.gateway.address("public"), request).await
    }

    /// A connection after `hello` with a token of `alice`.
    pub async fn subscriber(&self) -> Ws {
        let mut ws = self.connect().await;
        ws.hello(Some(&self.issuer.token("alice"))).await;
        ws
    }

    /// A connection after `hello` without a token.
    pub async fn anonymous(&self) -> Ws {
        let mut ws = self.connect().await;
        ws.hello(None).await;
        ws
    }

    /// The sum of a metric over nodes and its labels, or of one series if `name` has its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for node in self.nodes() {
            let answer = http::get(node.address("ops"), "/metrics").await;
            let series = answer.text().lines().filter_map(|line| line.rsplit_once(' '));
            sum += series
                .filter(|(series, _)| *series == name || series.split('{').next() == Some(name))
                .map(|(_, value)| value.parse::<f64>().unwrap())
                .sum::<f64>();
        }
        sum
    }

    /// Waits until a metric has a value.
    pub async fn await_metric(&self, name: &str, value: f64) {
        crate::eventually(&format!("{name} = {value}"), async || (self.metric(name).await == value).then_some(()))
            .await;
    }
}
