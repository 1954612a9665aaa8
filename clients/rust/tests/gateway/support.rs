//! Starts a gateway for the tests, and a proxy that breaks connections.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lastmile_client::{Gateway, Key};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longer than any step takes on a busy machine.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);

const ISSUER: &str = "https://app.example";

/// `open.*` for anyone, `members.*` for tokens, `support` with replies, and a publisher for all channels.
const CONFIG: &str = r#"
[listeners]
public = { address = "127.0.0.1:0", roles = ["subscribe", "pair"] }
publish = { address = "127.0.0.1:0", roles = ["publish"] }
[drain]
window_secs = 0
deadline_secs = 5
[rooms]
max_exchanges = 0
resume_messages = 1000
[[issuers]]
issuer = "https://app.example"
audience = "lastmile"
jwks_file = "app.json"
[[channels]]
match = "open.*"
subscribers = "anyone"
backlog_messages = 5000
[[channels]]
match = "members.*"
backlog_messages = 10
[[channels]]
match = "short.*"
subscribers = "anyone"
backlog_messages = 3
[[channels]]
match = "small.*"
max_messages = 2
[[channels]]
match = "support"
subscribers = "anyone"
replies = true
backlog_messages = 10
"#;

/// `lastmile serve` in its own folder.
pub struct TestGateway {
    child: Child,
    folder: PathBuf,
    pub public: String,
    pub publish: String,
    /// Another publish listener, whose name is the address of `publish_proxy`.
    proxied: String,
    publish_proxy: std::net::TcpListener,
}

impl TestGateway {
    pub fn start() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lastmile-client-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        // A killed process with the same id may have left one.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let run = |args: &[&str]| {
            let output = program().args(args).current_dir(&folder).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let line = |printed: &str| printed.lines().find(|line| line.starts_with("key = ")).unwrap().to_owned();
        let key = line(&run(&["keygen", "-o", "p.key"]));
        run(&["keygen", "-o", "app.key"]);
        std::fs::write(folder.join("app.json"), run(&["token", "--key", "app.key", "--jwks"])).unwrap();
        let publisher = format!(
            "[publishers.p]\n{key}\nchannels = [\"open.*\", \"short.*\", \"small.*\", \"members.*\", \"support\"]\n"
        );
        let publish_proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let proxied = format!(
            "[listeners.proxied]\naddress = \"127.0.0.1:0\"\nroles = [\"publish\"]\nhosts = [\"{}\"]\n",
            publish_proxy.local_addr().unwrap()
        );
        std::fs::write(folder.join("gateway.toml"), format!("{CONFIG}{publisher}{proxied}")).unwrap();
        let mut command = program();
        command.args(["serve", "--config", "gateway.toml"]).current_dir(&folder);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut urls = BTreeMap::new();
        while urls.len() < 3 {
            let line = lines.next().expect("a line of the log").unwrap();
            let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            if let (Some(name), Some(address)) = (line["listener"].as_str(), line["address"].as_str()) {
                urls.insert(name.to_owned(), format!("http://{address}"));
            }
        }
        // An unread log would fill the pipe and block the gateway.
        std::thread::spawn(move || lines.for_each(drop));
        let [public, publish, proxied] = ["public", "publish", "proxied"].map(|name| urls[name].clone());
        Self { child, folder, public, publish, proxied, publish_proxy }
    }

    /// A cutting proxy for publishers. They sign for its address.
    pub fn start_publish_proxy(&self, up_to: u64) -> (String, &'static AtomicUsize) {
        let listener = self.publish_proxy.try_clone().unwrap();
        listener.set_nonblocking(true).unwrap();
        cut(TcpListener::from_std(listener).unwrap(), &self.proxied, up_to)
    }

    pub fn key(&self) -> Key {
        Key::from_file(self.folder.join("p.key")).unwrap()
    }

    pub fn key_file(&self) -> String {
        self.folder.join("p.key").display().to_string()
    }

    /// Makes a token of `subject` with a lifetime such as `1h`.
    pub fn token(&self, subject: &str, expires: &str) -> String {
        let args = ["token", "--key", "app.key", "--issuer", ISSUER, "--subject", subject, "--expires", expires];
        let output = program().args(args).current_dir(&self.folder).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A key that is not on the whitelist.
    pub fn unknown_key(&self) -> Key {
        Key::from_file(self.folder.join("app.key")).unwrap()
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The gateway's program: `LASTMILE`, or the debug build.
fn program() -> Command {
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/lastmile");
    let program = std::env::var_os("LASTMILE").map_or(built, PathBuf::from);
    assert!(program.exists(), "{} is missing: run `cargo build` or set LASTMILE", program.display());
    let mut command = Command::new(program.canonicalize().unwrap());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LASTMILE_") {
            command.env_remove(name);
        }
    }
    command
}

/// A gateway with a short backoff.
pub fn with_fast_retries(url: &str) -> Gateway {
    Gateway::new(url).unwrap().with_backoff(Duration::from_millis(5), Duration::from_millis(50))
}

/// Forwards connections and breaks each after a random number of bytes. Returns its URL and the number of breaks.
pub async fn start_cutting_proxy(upstream: &str, up_to: u64) -> (String, &'static AtomicUsize) {
    cut(TcpListener::bind("127.0.0.1:0").await.unwrap(), upstream, up_to)
}

fn cut(listener: TcpListener, upstream: &str, up_to: u64) -> (String, &'static AtomicUsize) {
    let upstream = upstream.strip_prefix("http://").unwrap().to_owned();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let cuts: &AtomicUsize = Box::leak(Box::default());
    tokio::spawn(async move {
        loop {
            let Ok((client, _)) = listener.accept().await else { return };
            let upstream = upstream.clone();
            tokio::spawn(async move {
                let Ok(gateway) = TcpStream::connect(upstream).await else { return };
                for end in [&client, &gateway] {
                    end.set_nodelay(true).unwrap();
                }
                let ((mut from_client, mut to_client), (mut from_gateway, mut to_gateway)) =
                    (client.into_split(), gateway.into_split());
                // Both ends are dropped once one direction ends.
                tokio::select! {
                    _ = pass(&mut from_client, &mut to_gateway, random(up_to)) => {}
                    _ = pass(&mut from_gateway, &mut to_client, random(up_to)) => {}
                }
                cuts.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    (url, cuts)
}

async fn pass(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    bytes: u64,
) -> std::io::Result<()> {
    let (mut left, mut buffer) = (bytes as usize, [0; 4096]);
    while left > 0 {
        let room = left.min(buffer.len());
        let read = from.read(&mut buffer[..room]).await?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
        left -= read;
    }
    Ok(())
}

fn random(up_to: u64) -> u64 {
    1500 + getrandom::u64().unwrap() % up_to
}

/// Fails the test if the future takes too long.
pub async fn with_timeout<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_TIMEOUT, future).await.unwrap_or_else(|_| panic!("timeout: {what}"))
}
