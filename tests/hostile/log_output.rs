//! Logs that cannot be written or are not read, lines that strangers cause, and a runtime that does not run.

use std::fs;
use std::io::{BufRead, BufReader, PipeWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::{RedisServer, TEST_TIMEOUT, TempDir, eventually};
use tokio::task::JoinSet;

use crate::node::{Node, Setup, command as serve};
use crate::raw::{ask, connect, send};
use crate::ws::{RawWs, command};

/// Of Linux.
const O_NONBLOCK: i32 = 0o4000;

const BAD_TOKEN: &str = "ey.bad.token";

/// A gateway whose log lost its reader after the first line, as in `serve 2>&1 | head -n 1`.
async fn start_without_reader(setup: Setup<'_>) -> Node {
    let (reader, writer) = std::io::pipe().unwrap();
    let node = Node::start_logging_to(writer.into(), TempDir::new(), setup).await;
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).unwrap();
    assert!(line.starts_with('{'), "{line}");
    node
}

/// Writes as much as a pipe holds.
fn fill(pipe: &mut PipeWriter) {
    pipe.write_all(&[b'\n'; 64 * 1024]).unwrap();
}

async fn refuse_tokens(node: &Node, count: usize) {
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let connecting = RawWs::open(node.public(), "/v1/subscribe", "sec-websocket-protocol: lastmile.v1\r\n");
        // At most 100 sockets are open at once.
        if clients.len() >= 100 {
            clients.join_next().await.unwrap().unwrap();
        }
        clients.spawn(async move {
            let mut ws = connecting.await.expect("an upgrade");
            ws.send(&command(json!({"type": "hello", "token": BAD_TOKEN}))).await;
            assert_eq!(ws.end().await.code(), 4501);
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
}

/// Publications, operators' requests and reloads are served, and SIGTERM drains.
async fn check_served(mut node: Node) {
    let mut subscriber = node.subscriber("open.a").await;
    node.publish("open.a", "1").await;
    assert_eq!(subscriber.json().await["data"], 1);
    assert_eq!(ready(&node).await, 200);
    let before = node.metric("lastmile_reloads_total").await;
    for reloads in 1..=3 {
        node.signal("HUP");
        node.await_metric("lastmile_reloads_total", before + f64::from(reloads)).await;
    }
    node.signal("TERM");
    assert_eq!(subscriber.end().await.code(), 4000);
    assert_eq!(node.exit(TEST_TIMEOUT).await.code(), Some(0));
}

async fn ready(node: &Node) -> u16 {
    ask(node.address("ops"), b"GET /readyz HTTP/1.1\r\nhost: ops\r\n\r\n").await.expect("an answer").status
}

async fn await_publication(node: &Node, channel: &str) {
    eventually("a publication", async || {
        (node.post(channel, "application/json", b"1").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn unread_log_stops_nothing() {
    let _turn = crate::heavy().await;
    let (reader, mut writer) = std::io::pipe().unwrap();
    fill(&mut writer);
    let setup = Setup { log: "trace", ..Setup::default() };
    let node = Node::start_logging_to(writer.into(), TempDir::new(), setup).await;
    refuse_tokens(&node, 2000).await;
    check_served(node).await;
    drop(reader);
}

#[tokio::test]
async fn lost_lines_are_reported_when_log_is_read() {
    let folder = TempDir::new();
    let fifo = folder.path().join("log");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let open = || fs::File::options().read(true).custom_flags(O_NONBLOCK).open(&fifo).unwrap();
    let reader = open();
    let log = fs::File::options().write(true).open(&fifo).unwrap();
    let node = Node::start_logging_to(log.into(), folder, Setup::default()).await;
    drop(reader);
    eventually("lost lines", async || {
        refuse_tokens(&node, 1).await;
        (node.metric("lastmile_log_lines_dropped_total").await > 0.0).then_some(())
    })
    .await;
    let mut reader = open();
    let mut text = String::new();
    let report = eventually("the report", async || {
        refuse_tokens(&node, 1).await;
        // The pipe may be empty.
        let _ = reader.read_to_string(&mut text);
        let whole = text.rsplit_once('\n')?.0;
        let mut lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
        lines.find(|line| line["message"] == "log lines dropped")
    })
    .await;
    assert!(report["lines"].as_u64() > Some(0) && report["lines"] == report["since_start"], "{report}");
    check_served(node).await;
}

#[tokio::test]
async fn full_log_device_stops_nothing() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let node = Node::start_logging_to(full.into(), TempDir::new(), Setup::default()).await;
    refuse_tokens(&node, 30).await;
    assert!(node.metric("lastmile_log_lines_dropped_total").await > 0.0);
    check_served(node).await;
}

#[tokio::test]
async fn closed_log_reader_stops_nothing() {
    let node = start_without_reader(Setup::default()).await;
    refuse_tokens(&node, 30).await;
    check_served(node).await;
}

#[tokio::test]
async fn failed_fsync_recovers_without_log() {
    let folder = TempDir::new();
    let path = folder.path().join("store.redb");
    let more = format!("[engine]\nkind = \"disk\"\npath = {path:?}\n");
    let node = start_without_reader(Setup { more: &more, ..Setup::default() }).await;
    node.publish("open.a", "1").await;
    let trace = Trace::attach(node.pid(), &[node.pid()], &["-f", "-e", "inject=fdatasync:error=EIO:when=1"]);
    assert_eq!(node.post("open.a", "application/json", b"2").await.status, 503);
    await_publication(&node, "open.a").await;
    assert_eq!(node.metric("lastmile_engine_failures_total").await, 1.0);
    drop(trace);
    check_served(node).await;
}

#[tokio::test]
async fn redis_restart_is_survived_without_log() {
    let mut redis = RedisServer::start(true);
    let more = format!("[engine]\nkind = \"redis\"\nurl = \"{}\"\n", redis.url());
    let node = start_without_reader(Setup { more: &more, ..Setup::default() }).await;
    await_publication(&node, "open.a").await;
    redis.kill();
    eventually("the loss", async || (ready(&node).await == 503).then_some(())).await;
    redis.restart();
    await_publication(&node, "open.a").await;
    eventually("readiness", async || (ready(&node).await == 200).then_some(())).await;
    check_served(node).await;
}

/// A refused configuration ends the process although its standard error is a pipe that is full and not read.
#[test]
fn full_pipe_does_not_keep_refused_start() {
    let folder = TempDir::new();
    folder.write("lastmile.toml", "[listeners.a]\naddress = \"nonsense\"\nroles = []\n");
    let output = serve(&folder).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("lastmile: "));
    let (reader, mut writer) = std::io::pipe().unwrap();
    fill(&mut writer);
    let mut refused = serve(&folder).stderr(writer).spawn().unwrap();
    let began = Instant::now();
    while refused.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < TEST_TIMEOUT, "the process does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(refused.wait().unwrap().code(), Some(64));
    drop(reader);
}

#[tokio::test]
async fn strangers_lines_are_folded() {
    let more = "[listeners.balanced]\naddress = \"127.0.0.1:0\"\nroles = [\"subscribe\"]\nproxy_protocol = true\n";
    let top = "trusted_proxies = [\"127.0.0.1\"]";
    let node = Node::start(Setup { more, top, ..Setup::default() }).await;
    let began = Instant::now();
    refuse_tokens(&node, 300).await;
    for _ in 0..300 {
        let mut stream = connect(node.address("balanced")).await;
        send(&mut stream, b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n").await;
        // The gateway closes it.
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1]).await;
    }
    for event in ["token refused", "connection refused: no valid PROXY header", "connection closed"] {
        let count = || {
            let lines: Vec<Value> = node.log().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            let own: Vec<_> =
                lines.into_iter().filter(|line| line["message"] == event || line["event"] == event).collect();
            let left_out: u64 = own.iter().filter_map(|line| line["left_out"].as_u64()).sum();
            let printed = own.iter().filter(|line| line["message"] == event).count();
            (own.len(), printed as u64 + left_out)
        };
        eventually(event, async || (count().1 == 300).then_some(())).await;
        let seconds = began.elapsed().as_secs() + 2;
        assert!(count().0 as u64 <= seconds, "{event}: {} lines in {seconds} s", count().0);
    }
}

/// All threads of the runtime hang in a system call; the deadline of SIGTERM holds nevertheless.
#[tokio::test]
async fn blocked_runtime_ends_at_deadline() {
    let more = "[drain]\nwindow_secs = 0\ndeadline_secs = 1";
    let mut node = Node::start(Setup { more, ..Setup::default() }).await;
    let threads: Vec<u32> = fs::read_dir(format!("/proc/{}/task", node.pid()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .filter(|thread| {
            let name = fs::read_to_string(format!("/proc/{}/task/{thread}/comm", node.pid())).unwrap();
            *thread == node.pid() || name.starts_with("tokio")
        })
        .collect();
    assert!(threads.len() > 1, "threads of the runtime");
    // Longer than the test: the next system call of each thread does not begin.
    let trace = Trace::attach(node.pid(), &threads, &["-e", "inject=all:delay_enter=600000000"]);
    // A thread of the runtime that still accepts hangs then.
    let health = b"GET /healthz HTTP/1.1\r\nhost: ops\r\n\r\n";
    let is_blocked = async || {
        let answer = tokio::time::timeout(Duration::from_secs(2), ask(node.address("ops"), health)).await;
        answer.is_err().then_some(())
    };
    eventually("a blocked runtime", is_blocked).await;
    node.signal("TERM");
    node.await_log("the drain did not end in time");
    // A traced process ends for its parent once the tracer let it go.
    drop(trace);
    assert_eq!(node.exit(TEST_TIMEOUT).await.code(), Some(70));
}

/// `strace` on some threads of a process, ended when this is dropped.
struct Trace(Child);

impl Trace {
    fn attach(pid: u32, threads: &[u32], args: &[&str]) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-o", "/dev/null"]).args(args);
        strace.args(threads.iter().flat_map(|thread| ["-p".to_owned(), thread.to_string()]));
        let trace = Self(strace.stdin(Stdio::null()).spawn().expect("strace"));
        let all = args.contains(&"-f");
        let began = Instant::now();
        loop {
            let is_traced = |thread: u32| {
                let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap();
                !status.contains("TracerPid:\t0\n")
            };
            let of_process = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let every = of_process.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap());
            let threads: Vec<u32> = if all { every.collect() } else { threads.to_vec() };
            if threads.into_iter().all(is_traced) {
                return trace;
            }
            assert!(began.elapsed() < TEST_TIMEOUT, "strace does not attach");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It may have ended with the process.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
