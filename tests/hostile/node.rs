//! The program as a child process, with its memory, metrics, publisher and subscribers.

use std::net::SocketAddr;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use lastmile::transport::config::Address;
use serde_json::Value;
use test_support::gateway::{ISSUER, LISTENERS};
use test_support::{ChildGateway, TEST_TIMEOUT, TempDir, TestIssuer, TestPublisher, child, eventually};

use crate::raw::{Reply, ask, request_bytes};
use crate::ws::RawWs;

/// The parts of the configuration that differ between tests.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// Lines for `[listeners.public]`.
    pub public: &'a str,
    /// Lines for `[limits]`.
    pub limits: &'a str,
    /// Lines before the first table.
    pub top: &'a str,
    /// Further tables.
    pub more: &'a str,
    /// `log.filter`.
    pub log: &'a str,
    /// Options of `ulimit` for the process.
    pub ulimit: &'a str,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { public: "", limits: "", top: "", more: "", log: "info", ulimit: "" }
    }
}

impl Setup<'_> {
    /// Anyone may subscribe to `open.*`; other channels need a token.
    fn toml(&self, publisher: &TestPublisher) -> String {
        let Self { public, limits, top, more, log, ulimit: _ } = self;
        let publisher = publisher.toml("market-data", &["*"]);
        let close = if limits.contains("close_secs") { "" } else { "close_secs = 1" };
        // Raw clients answer no pings, and thousands of `hello`s take long on a busy machine.
        let ping = if limits.contains("ping_secs") { "" } else { "ping_secs = 300" };
        let hello = if limits.contains("hello_secs") { "" } else { "hello_secs = 300" };
        let drain = if more.contains("[drain]") { "" } else { "[drain]\nwindow_secs = 0\ndeadline_secs = 5" };
        format!(
            r#"
            {top}
            {LISTENERS}
            {public}
            {publisher}
            [[issuers]]
            issuer = "{ISSUER}"
            audience = "lastmile"
            jwks_file = "sso.json"
            [log]
            format = "json"
            filter = "{log}"
            [limits]
            {close}
            {ping}
            {hello}
            {limits}
            {drain}
            {more}
            [[channels]]
            match = "open.*"
            subscribers = "anyone"
            "#
        )
    }
}

/// A running gateway with the listeners `public`, `publish` and `ops`, the publisher `market-data` and an issuer.
pub struct Node {
    gateway: ChildGateway,
    pub folder: TempDir,
    pub publisher: TestPublisher,
    pub issuer: TestIssuer,
}

impl Node {
    pub async fn start(setup: Setup<'_>) -> Self {
        Self::start_in(TempDir::new(), setup).await
    }

    /// `folder` holds the files that the configuration names.
    pub async fn start_in(folder: TempDir, setup: Setup<'_>) -> Self {
        Self::start_logging_to(Stdio::piped(), folder, setup).await
    }

    pub async fn start_logging_to(stderr: Stdio, folder: TempDir, setup: Setup<'_>) -> Self {
        let (publisher, issuer) = (TestPublisher::new(), TestIssuer::new(ISSUER));
        folder.write("sso.json", &issuer.jwks());
        folder.write("lastmile.toml", &setup.toml(&publisher));
        let command = limited(command(&folder), setup.ulimit);
        let gateway = ChildGateway::start_logging_to(stderr, command, &folder);
        Self { gateway, folder, publisher, issuer }
    }

    pub fn address(&self, listener: &str) -> SocketAddr {
        match self.gateway.address(listener) {
            Address::Tcp(address) => *address,
            Address::Unix(path) => panic!("{listener} is a Unix socket: {}", path.display()),
        }
    }

    pub fn public(&self) -> SocketAddr {
        self.address("public")
    }

    pub fn log(&self) -> Vec<String> {
        self.gateway.log()
    }

    pub fn pid(&self) -> u32 {
        self.gateway.pid()
    }

    /// Resident memory in KiB.
    pub fn rss(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most resident memory since [`Node::reset_peak`], in KiB.
    pub fn peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    pub fn reset_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").unwrap();
    }

    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a living process");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits for a line of the log with this text.
    pub fn await_log(&self, text: &str) {
        self.gateway.await_log(text);
    }

    /// `TERM` or `HUP`.
    pub fn signal(&self, name: &str) {
        self.gateway.signal(name);
    }

    /// Waits for the process to end by itself.
    pub async fn exit(&mut self, timeout: Duration) -> ExitStatus {
        self.gateway.exit(timeout).await
    }

    /// Publishes a body of a type; returns any answer.
    pub async fn post(&self, channel: &str, content_type: &str, body: &[u8]) -> Reply {
        let path = format!("/v1/channels/{channel}/messages");
        self.signed("POST", &path, Some((content_type, body))).await
    }

    /// Publishes JSON, which must be taken.
    pub async fn publish(&self, channel: &str, data: &str) -> Value {
        let reply = self.post(channel, "application/json", data.as_bytes()).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    }

    /// Sends a signed request on a connection of its own.
    pub async fn signed(&self, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Reply {
        ask(self.address("publish"), &self.signed_bytes(method, path, body)).await.expect("an answer")
    }

    /// A signed request as it goes over the wire.
    pub fn signed_bytes(&self, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Vec<u8> {
        request_bytes(&self.publisher.request(&self.address("publish").to_string(), method, path, body))
    }

    /// A publishing WebSocket, after its `welcome`.
    pub async fn publisher_ws(&self) -> RawWs {
        self.publisher_ws_at("publish", "").await
    }

    /// The same on another listener with the role `publish`, with more header lines.
    pub async fn publisher_ws_at(&self, listener: &str, more: &str) -> RawWs {
        let authority = self.address(listener).to_string();
        let signed = self.publisher.request(&authority, "GET", "/v1/publish", None);
        let headers = signed.headers().iter().filter(|(name, _)| *name != "host");
        let headers: String = headers.map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap())).collect();
        let headers = headers + more;
        let mut ws = RawWs::open(self.address(listener), "/v1/publish", &headers).await.expect("an upgrade");
        assert_eq!(ws.json().await["type"], "welcome");
        ws
    }

    /// A connection to the listener `public`, before `hello`.
    pub async fn connect(&self) -> RawWs {
        RawWs::open(self.public(), "/v1/subscribe", "sec-websocket-protocol: lastmile.v1\r\n")
            .await
            .expect("an upgrade")
    }

    /// A subscriber of a channel for anyone.
    pub async fn subscriber(&self, channel: &str) -> RawWs {
        let mut ws = self.connect().await;
        ws.hello().await;
        ws.subscribe(channel).await;
        ws
    }

    /// The sum of a metric over its labels, or of one series if `name` has its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let reply =
            ask(self.address("ops"), b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await.expect("metrics");
        let series = reply.text();
        series
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(series, _)| *series == name || series.split('{').next() == Some(name))
            .map(|(_, value)| value.parse::<f64>().unwrap())
            .sum()
    }

    pub async fn await_metric(&self, name: &str, value: f64) {
        eventually(&format!("{name} = {value}"), async || (self.metric(name).await == value).then_some(())).await;
    }

    /// Waits until the memory is at most `limit` KiB; gives what it is.
    pub async fn await_rss(&self, limit: u64, what: &str) -> u64 {
        let begun = Instant::now();
        loop {
            let rss = self.rss();
            if rss <= limit {
                return rss;
            }
            assert!(begun.elapsed() < TEST_TIMEOUT, "{what}: {rss} KiB, the bound is {limit} KiB");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.gateway.kill();
        let panic = self.gateway.log().into_iter().find(|line| line.contains("panicked"));
        if !std::thread::panicking() {
            assert_eq!(panic, None, "the gateway panicked");
        }
    }
}

/// `lastmile serve` with the configuration of a folder.
pub fn command(folder: &TempDir) -> Command {
    child::serve(env!("CARGO_BIN_EXE_lastmile"), folder)
}

/// A command whose process has limits of its own.
fn limited(command: Command, ulimit: &str) -> Command {
    if ulimit.is_empty() {
        return command;
    }
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(format!("ulimit {ulimit} && exec \"$0\" \"$@\"")).arg(command.get_program());
    shell.args(command.get_args()).env_clear();
    shell
}

/// A well-behaved subscriber, which must be served during and after every attack.
pub struct HealthySubscriber {
    ws: RawWs,
    next: u64,
}

impl HealthySubscriber {
    pub async fn of(node: &Node) -> Self {
        Self { ws: node.subscriber("open.healthy").await, next: 1 }
    }

    /// Gets the very next publication, and the gateway takes new connections too.
    pub async fn check_served(&mut self, node: &Node) {
        node.publish("open.healthy", &format!("{}", self.next)).await;
        let message = self.ws.json().await;
        assert_eq!((&message["offset"], &message["data"]), (&self.next.into(), &self.next.into()), "{message}");
        self.next += 1;
        node.connect().await.hello().await;
    }
}
