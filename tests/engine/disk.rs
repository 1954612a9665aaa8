//! The durable engine over restarts of itself, and files that it cannot use.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use lastmile::broker::engine::{Created, Start};
use lastmile::broker::{ChannelLimits, ChannelRule, Now};
use lastmile::engine::{DiskError, MemoryLimits};
use lastmile::protocol::{ErrorCode, Position};
use test_support::TempDir;

use crate::support::{Kind, LIMITS, NO_LIMITS, TestEnv, name, open_at, rule};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_survives_restart() {
    let mut env = TestEnv::new(Kind::Disk, ChannelRule { backlog_messages: 5, replies: true, ..rule() });
    let limits = ChannelLimits { max_messages: 9, ..NO_LIMITS };
    assert_eq!(env.engine().create(&name("c"), Some(limits.clone()), Now::read()).await, Ok(Created::New));
    let mut last = env.publish("c", "1").await;
    for n in 2..=8 {
        last = env.publish("c", &format!("{n} \"é\"")).await;
    }
    env.publish("gone", "1").await;
    assert_eq!(env.engine().close(&name("gone")).await, Ok(true));
    let before = env.describe("c").await.unwrap();
    for _ in 0..2 {
        env.restart();
        let after = env.describe("c").await.unwrap();
        assert_eq!((&after.position, after.data_bytes), (&before.position, before.data_bytes));
        assert_eq!((after.created.as_second(), &after.limits), (before.created.as_second(), &limits));
        let back = env.join("c", Start::Since(Position { offset: 6, ..last.clone() }));
        assert_eq!((back.offsets(), back.recovered), (vec![7, 8], true));
        assert_eq!(back.data(), ["7 \"é\"", "8 \"é\""]);
        assert_eq!(env.backlog("c", Start::Backlog(9)), (vec![4, 5, 6, 7, 8], false));
        assert_eq!(env.engine().publisher_of(&name("c"), &last).as_deref(), Some("p"));
        assert!(env.describe("gone").await.is_none());
    }
    assert_eq!(env.publish("c", "9").await, Position { offset: 9, ..last });
    assert_eq!(env.try_publish("c", "10").await.unwrap_err().code, ErrorCode::LimitReached);
    env.restart();
    assert_eq!(env.try_publish("c", "10").await.unwrap_err().code, ErrorCode::LimitReached);
    assert_eq!(env.engine().create(&name("c"), None, Now::read()).await, Ok(Created::New));
    assert_eq!(env.publish("c", "1").await.offset, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_size_is_bounded_by_backlog() {
    let limits = MemoryLimits { max_backlog_bytes: 2 << 20, ..LIMITS };
    let mut env = TestEnv::with(Kind::Disk, ChannelRule { backlog_messages: 100, ..rule() }, limits);
    let size = |env: &TestEnv| std::fs::metadata(env.path()).unwrap().len();
    let pass = async |env: &TestEnv| {
        for n in 0..40 {
            // Of a size that fits badly into pages; many in one transaction.
            let data = "x".repeat(2100);
            let all = (0..50).map(|m| (format!("c{}", (n * 50 + m) % 37), data.clone()));
            let all: Vec<_> = all.map(|(channel, data)| async move { env.publish(&channel, &data).await }).collect();
            futures_util::future::join_all(all).await;
        }
    };
    pass(&env).await;
    let first = size(&env);
    for _ in 0..3 {
        pass(&env).await;
    }
    assert!(size(&env) <= 2 * first && size(&env) < 8 * (2 << 20), "{first} {}", size(&env));
    // Publications that left the memory are not in the file either.
    let kept = |env: &TestEnv| (0..37).map(|n| env.backlog(&format!("c{n}"), Start::Backlog(999)).0.len()).sum();
    let before: usize = kept(&env);
    env.engine().sweep(Now::read());
    env.restart();
    assert_eq!(before, kept(&env));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lifespan_continues_after_restart() {
    let limits = ChannelLimits { lifespan: Duration::from_secs(100), ..NO_LIMITS };
    let mut env = TestEnv::new(Kind::Disk, ChannelRule { limits, backlog_age: Duration::from_secs(50), ..rule() });
    let position = env.publish("c", "1").await;
    env.restart();
    assert_eq!(env.backlog("c", Start::Backlog(1)), (vec![1], true));
    let at = |secs| Now { monotonic: std::time::Instant::now() + Duration::from_secs(secs), ..Now::read() };
    env.engine().sweep(at(51));
    assert_eq!(env.backlog("c", Start::Since(Position { offset: 0, ..position })), (vec![], false));
    env.engine().sweep(at(101));
    assert_eq!(env.try_publish("c", "2").await.unwrap_err().code, ErrorCode::ChannelEnded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_file_is_explained_at_start() {
    let env = TestEnv::new(Kind::Disk, rule());
    for n in 0..200 {
        env.publish("c", &format!("{n}")).await;
    }
    let mode = std::fs::metadata(env.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let refused = |env: &TestEnv, path: &std::path::Path| open_at(path, env).err().expect("a start error");
    let error = refused(&env, &env.path());
    assert!(matches!(error, DiskError::InUse(_)) && error.to_string().contains("in use by another process"));

    let (path, other) = (env.path(), env.folder.path().join("other"));
    let mut env = env;
    drop(env.engine.take());
    let good = std::fs::read(&path).unwrap();
    let mut damaged = Vec::new();
    damaged.push(b"not a store at all".to_vec());
    damaged.push(good[..good.len() / 2].to_vec());
    damaged.push(vec![0; 100_000]);
    // A byte of every publication: some of these pages are in use, and some are free.
    let mut flipped = good.clone();
    for (at, _) in good.windows(8).enumerate().filter(|(_, bytes)| bytes == b"\"message") {
        flipped[at + 3] ^= 1;
    }
    assert_ne!(flipped, good);
    damaged.push(flipped);
    for content in damaged {
        std::fs::write(&other, &content).unwrap();
        let error = refused(&env, &other);
        assert!(error.to_string().contains("restore a copy, or move it away"), "{error}");
        assert!(!error.is_misconfigured());
    }
    let error = refused(&env, &env.folder.path().join("nowhere/store"));
    assert!(error.is_misconfigured() && error.to_string().contains("nowhere"), "{error}");
    env.restart();
    assert_eq!(env.backlog("c", Start::Backlog(200)).0.len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_first_start_is_harmless() {
    let mut env = TestEnv::new(Kind::Disk, rule());
    drop(env.engine.take());
    std::fs::remove_file(env.path()).unwrap();
    std::fs::write(env.folder.path().join("store.new"), "half a file").unwrap();
    env.restart();
    assert_eq!(env.publish("c", "1").await.offset, 1);
    assert!(!env.folder.path().join("store.new").exists());
}

#[test]
fn configuration_check_creates_no_file() {
    let folder = TempDir::new();
    let path = folder.path().join("store");
    let toml = format!("[engine]\nkind = \"disk\"\npath = {path:?}\n");
    let file = folder.write("lastmile.toml", &toml);
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_lastmile"));
    let output = check.args(["check", "--config"]).arg(&file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("engine: disk") && text.contains("a loss of power"), "{text}");
    assert!(!path.exists());
}
