//! Runs the program and waits for its output, never for a time.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use test_support::{TEST_TIMEOUT, TempDir};

/// The folder in which the program runs.
pub struct Scratch(TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(TempDir::new())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        self.0.write(name, text)
    }

    /// The program, run in this folder and without the developer's settings.
    pub fn lastmile<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lastmile"));
        command.args(args).current_dir(self.0.path()).env("TMPDIR", self.0.path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LASTMILE_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs the program to its end.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        Ran::from(self.lastmile(args).stdin(Stdio::null()).output().unwrap())
    }

    /// Makes a key with `keygen`; gives its file and its line for the whitelist.
    pub fn key(&self, name: &str) -> (String, String) {
        let file = format!("{name}.key");
        let ran = self.run(["keygen", "-o", &file]).ok();
        let line = ran.stdout.lines().find(|line| line.starts_with("key = ")).unwrap();
        (file, line.to_owned())
    }
}

/// The output and the exit code of a command.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    #[track_caller]
    pub fn failed(self, code: i32, says: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(says), "{says:?} is not in {self:?}");
        self
    }
}

/// A command that runs beside the test.
pub struct Running {
    child: Child,
    pub stdout: Lines,
    pub stderr: Lines,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    pub fn write(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `INT`, `TERM`, `HUP`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for the end; the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        drop(self.child.stdin.take());
        // The program holds its side of the pipe until it ends.
        while self.stderr.next().is_some() {}
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe as they come.
pub struct Lines(Receiver<String>);

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// The next line, `None` at the end.
    pub fn next(&self) -> Option<String> {
        match self.0.recv_timeout(TEST_TIMEOUT) {
            Ok(line) => Some(line),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => None,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("nothing was printed for {TEST_TIMEOUT:?}"),
        }
    }

    /// Skips lines up to the first with these words, and gives that one.
    #[track_caller]
    pub fn wait_for(&self, words: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.next() {
                Some(line) if line.contains(words) => return line,
                Some(line) => seen.push(line),
                None => panic!("it ended without {words:?}: {seen:#?}"),
            }
        }
    }

    /// The next line as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.next().unwrap()).unwrap()
    }
}

/// `lastmile serve` on free ports.
pub struct Gateway {
    pub running: Running,
    pub public: String,
    pub publish: String,
    pub ops: String,
}

/// Listeners on any free ports.
pub const LISTENERS: &str = r#"
[listeners]
public = { address = "127.0.0.1:0", roles = ["subscribe", "pair"] }
publish = { address = "127.0.0.1:0", roles = ["publish"] }
ops = { address = "127.0.0.1:0", roles = ["ops"] }
[drain]
window_secs = 0
deadline_secs = 5
"#;

impl Gateway {
    /// Starts with the listeners above and `rest`, in the file `gateway.toml`.
    pub fn start(scratch: &Scratch, rest: &str) -> Self {
        scratch.write("gateway.toml", &format!("{LISTENERS}{rest}"));
        Self::with_file(scratch, "gateway.toml", &[])
    }

    pub fn with_file(scratch: &Scratch, file: &str, args: &[&str]) -> Self {
        Self::of(Running::start(scratch.lastmile(["serve", "--config", file].iter().chain(args))))
    }

    /// A started gateway, with the addresses of its log.
    pub fn of(running: Running) -> Self {
        let mut urls = BTreeMap::new();
        while urls.len() < 3 {
            let line: serde_json::Value = serde_json::from_str(&running.stderr.wait_for("listening")).unwrap();
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            urls.insert(text("listener"), format!("http://{}", text("address")));
        }
        let [public, publish, ops] = ["public", "publish", "ops"].map(|name| urls[name].clone());
        Self { running, public, publish, ops }
    }
}

/// A whole GET request: the status line with the headers, and the body.
pub fn get(url: &str, path: &str) -> (String, String) {
    let authority = url.strip_prefix("http://").unwrap();
    let mut tcp = TcpStream::connect(authority).unwrap();
    tcp.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    write!(tcp, "GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// Repeats `ask` until it returns a value.
#[track_caller]
pub fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < TEST_TIMEOUT, "it never came true");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
