//! Redis servers of the tests' own: each in a folder of its own, killed by its process at the end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::{TEST_TIMEOUT, TempDir, free_port};

/// A server of Redis on a port of the loopback interface.
pub struct RedisServer {
    process: Option<Child>,
    folder: TempDir,
    args: Vec<String>,
    pub port: u16,
}

impl RedisServer {
    /// With or without an append-only file, never with snapshots. `always`, because with `everysec` a killed Redis loses
    /// acknowledged writes while an fsync is slow.
    pub fn start(appendonly: bool) -> Self {
        Self::with(&["--appendonly", if appendonly { "yes" } else { "no" }, "--appendfsync", "always"])
    }

    pub fn with(args: &[&str]) -> Self {
        let (folder, port) = (TempDir::new(), free_port());
        let own = ["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()].map(str::to_owned);
        let dir = ["--dir".to_owned(), folder.path().to_str().unwrap().to_owned()];
        let args = args.iter().map(|arg| arg.to_string());
        Self::run(folder, port, own.into_iter().chain(dir).chain(args).collect())
    }

    /// A Sentinel that alone decides on the master `m`. On a busy machine a master may be silent for a second or two.
    pub fn sentinel(master: &RedisServer) -> Self {
        let (folder, port) = (TempDir::new(), free_port());
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor m 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds m 5000\nsentinel failover-timeout m 10000\n",
            folder.path().display(),
            master.port
        );
        let file = folder.write("sentinel.conf", &text).to_str().unwrap().to_owned();
        Self::run(folder, port, vec![file, "--sentinel".to_owned()])
    }

    fn run(folder: TempDir, port: u16, args: Vec<String>) -> Self {
        let mut server = Self { process: None, folder, args, port };
        server.restart();
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn folder(&self) -> &TempDir {
        &self.folder
    }

    /// Starts it where it is not running; returns once it answers.
    pub fn restart(&mut self) {
        let mut command = Command::new(program());
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::null());
        self.process = Some(command.spawn().expect("a server of Redis"));
        let deadline = Instant::now() + TEST_TIMEOUT;
        while self.command("PING").is_none_or(|answer| !answer.starts_with("+PONG")) {
            assert!(Instant::now() < deadline, "the server of Redis does not answer");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Stops the process, like a hanging machine, or continues it.
    pub fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// One command with its words apart by spaces, and its answer.
    pub fn command(&self, words: &str) -> Option<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        socket.set_read_timeout(Some(TEST_TIMEOUT)).ok()?;
        socket.write_all(format!("{words}\r\n").as_bytes()).ok()?;
        let mut answer = Vec::new();
        while length(&answer).is_none_or(|length| length > answer.len()) {
            let mut more = [0; 4096];
            let read = socket.read(&mut more).ok().filter(|read| *read > 0)?;
            answer.extend_from_slice(&more[..read]);
        }
        Some(String::from_utf8_lossy(&answer).into_owned())
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

/// The bytes of an answer in the protocol of Redis, once they can be counted.
fn length(answer: &[u8]) -> Option<usize> {
    let line = answer.windows(2).position(|bytes| bytes == b"\r\n")? + 2;
    let number = || std::str::from_utf8(&answer[1..line - 2]).ok()?.parse::<i64>().ok();
    match answer[0] {
        b'$' => Some(line + usize::try_from(number()?).map_or(0, |bytes| bytes + 2)),
        b'*' => (0..number()?).try_fold(line, |at, _| Some(at + length(answer.get(at..)?)?)),
        _ => Some(line),
    }
}
