//! The gateway as a child process: addresses, log, signals, exit.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lastmile::transport::config::Address;
use parking_lot::Mutex;

use crate::{TEST_TIMEOUT, TempDir};

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A gateway that serves; killed when it is dropped.
pub struct ChildGateway {
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
    addresses: BTreeMap<String, Address>,
}

impl ChildGateway {
    /// Runs `command`, which is `lastmile serve` without `--ready-file`, until it is ready.
    pub fn start(command: Command, folder: &TempDir) -> Self {
        Self::start_logging_to(Stdio::piped(), command, folder)
    }

    /// The same with another standard error than a pipe that is read.
    pub fn start_logging_to(stderr: Stdio, mut command: Command, folder: &TempDir) -> Self {
        let ready_file = folder.path().join("ready.json");
        // A killed process leaves its file.
        let _ = fs::remove_file(&ready_file);
        command.arg("--ready-file").arg(&ready_file);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        // It holds the other copies of a pipe.
        drop(command);
        let log = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = process.stderr.take() {
            let (lines, kept) = (BufReader::new(stderr).lines(), log.clone());
            std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| kept.lock().push(line)));
        }
        let mut gateway = Self { process, log, addresses: BTreeMap::new() };
        let urls = await_ready(&ready_file, || {
            if let Some(status) = gateway.process.try_wait().unwrap() {
                panic!("the gateway ended with {status}: {:#?}", gateway.log());
            }
        });
        gateway.addresses = urls.into_iter().map(|(name, url)| (name, address_of(&url))).collect();
        gateway
    }

    pub fn address(&self, listener: &str) -> &Address {
        &self.addresses[listener]
    }

    /// The lines of the log until now.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().clone()
    }

    /// Waits for a line of the log with this text.
    pub fn await_log(&self, text: &str) {
        let began = Instant::now();
        while !self.log.lock().iter().any(|line| line.contains(text)) {
            assert!(began.elapsed() < TEST_TIMEOUT, "{text:?} is not in the log: {:#?}", self.log());
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// `SIGKILL`.
    pub fn kill(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        self.process.wait().unwrap();
    }

    /// `TERM` or `HUP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until the process ends by itself.
    pub async fn exit(&mut self, timeout: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < timeout, "the process still runs after {timeout:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for ChildGateway {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `PROGRAM serve` with the file `lastmile.toml` of a folder, and without the environment of the test.
pub fn serve(program: &str, folder: &TempDir) -> Command {
    let mut command = Command::new(program);
    command.args(["serve", "--config"]).arg(folder.path().join("lastmile.toml")).env_clear();
    command
}

/// Waits for the file of `serve --ready-file`; the URL of each listener. `check` runs between two looks.
pub fn await_ready(file: &Path, mut check: impl FnMut()) -> BTreeMap<String, String> {
    let began = Instant::now();
    loop {
        // The file appears complete.
        if let Ok(text) = fs::read_to_string(file) {
            return serde_json::from_str(&text).unwrap();
        }
        check();
        assert!(began.elapsed() < TEST_TIMEOUT, "the gateway did not become ready");
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn address_of(url: &str) -> Address {
    match url.strip_prefix("unix:") {
        Some(path) => Address::Unix(path.into()),
        None => Address::Tcp(url.split_once("://").unwrap().1.parse().unwrap()),
    }
}
