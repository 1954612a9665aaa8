//! Redis servers of the tests' own: each in a folder of its own, killed by its process at the end.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::gateway::Folder;

/// A server of Redis on a port of the loopback interface.
pub struct RedisServer {
    process: Option<Child>,
    folder: Folder,
    args: Vec<String>,
    pub port: u16,
}

impl RedisServer {
    /// With or without an append-only file, and never with snapshots.
    pub fn start(appendonly: bool) -> Self {
        Self::with(&["--appendonly", if appendonly { "yes" } else { "no" }])
    }

    pub fn with(args: &[&str]) -> Self {
        let (folder, port) = (Folder::new(), free_port());
        let own = ["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()].map(str::to_owned);
        let dir = ["--dir".to_owned(), folder.path().to_str().unwrap().to_owned()];
        let args = args.iter().map(|arg| arg.to_string());
        Self::run(folder, port, own.into_iter().chain(dir).chain(args).collect())
    }

    /// A Sentinel that alone decides on the master `m`.
    pub fn sentinel(master: &RedisServer) -> Self {
        let (folder, port) = (Folder::new(), free_port());
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor m 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds m 500\nsentinel failover-timeout m 3000\n",
            folder.path().display(),
            master.port
        );
        let file = folder.write("sentinel.conf", &text).to_str().unwrap().to_owned();
        Self::run(folder, port, vec![file, "--sentinel".to_owned()])
    }

    fn run(folder: Folder, port: u16, args: Vec<String>) -> Self {
        let mut server = Self { process: None, folder, args, port };
        server.restart();
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Starts it where it is not running; returns once it answers.
    pub fn restart(&mut self) {
        let mut command = Command::new(program());
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::null());
        self.process = Some(command.spawn().expect("a server of Redis"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.command("PING").is_none_or(|answer| !answer.starts_with("+PONG")) {
            assert!(Instant::now() < deadline, "the server of Redis does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Stops it without an end, as a machine that hangs, or lets it go on.
    pub fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// One command with its words apart by spaces; what came at once of its answer.
    pub fn command(&self, words: &str) -> Option<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        socket.write_all(format!("{words}\r\n").as_bytes()).ok()?;
        let mut answer = [0; 4096];
        let read = socket.read(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..read]).into_owned())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Another version of Redis, or Valkey, where `tests/run` names one.
fn program() -> String {
    std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// A Cluster's nodes speak on a port that is 10000 higher, so not all are good.
pub fn free_port() -> u16 {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    std::iter::repeat_with(free).find(|port| *port < 55_000).unwrap()
}
