//! The memory of all backlogs together.

use std::process::Command;
use std::time::Duration;

use lastmile::broker::engine::Start;
use lastmile::broker::{ChannelRule, Now};
use lastmile::engine::MemoryLimits;
use lastmile::protocol::Payload;

use crate::suite::each_local_engine;
use crate::support::{Kind, LIMITS, TestEnv, name, place, rule};

each_local_engine!(largest_backlog_is_trimmed_first);

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// In a process of its own, whose memory is not that of other tests.
#[test]
fn backlog_memory_stays_under_limit() {
    let test = "bounds::backlog_memory_of_this_process";
    let alone = Command::new(std::env::current_exe().unwrap()).args(["--exact", "--ignored", test]).output().unwrap();
    let output = String::from_utf8_lossy(&alone.stdout);
    assert!(alone.status.success() && output.contains("1 passed"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures the memory of its process; the test above runs it"]
async fn backlog_memory_of_this_process() {
    const CHANNELS: usize = 10_000;
    const LIMIT: usize = 32 << 20;
    let env = TestEnv::with(Kind::Memory, rule(), MemoryLimits { max_backlog_bytes: LIMIT, ..LIMITS });
    let names: Vec<_> = (0..CHANNELS).map(|n| name(&format!("c{n}"))).collect();
    let data = "x".repeat(1000);
    let before = resident_bytes();
    // Five times as much as may be kept, in an order without a pattern.
    let mut at = 1usize;
    for _ in 0..LIMIT * 5 / 1000 {
        at = at.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        place(env.engine().append(&names[(at >> 33) % CHANNELS], "p", Payload::Text(&data), Now::read()).unwrap())
            .await
            .unwrap();
    }
    let grown = resident_bytes().saturating_sub(before);
    let kept: usize = (0..CHANNELS).map(|n| env.backlog(&format!("c{n}"), Start::Backlog(1000)).0.len()).sum();
    assert!(kept * 1000 < LIMIT && kept * 1000 > LIMIT / 2, "{kept} publications are kept");
    // Channels themselves, and what other tests of this process do meanwhile.
    assert!(grown < 2 * LIMIT + CHANNELS * 2000, "{grown} bytes more are resident");
}

async fn largest_backlog_is_trimmed_first(kind: Kind) {
    let limits = MemoryLimits { max_backlog_bytes: 200_000, ..LIMITS };
    let env = TestEnv::with(kind, ChannelRule { backlog_age: Duration::from_secs(600), ..rule() }, limits);
    for n in 0..10 {
        env.publish(&format!("small{n}"), "1").await;
    }
    for _ in 0..300 {
        env.publish("large", &"x".repeat(1000)).await;
    }
    for n in 0..10 {
        assert_eq!(env.backlog(&format!("small{n}"), Start::Backlog(1)), (vec![1], true));
    }
    let (offsets, recovered) = env.backlog("large", Start::Backlog(1000));
    assert!(!recovered && (10..200).contains(&offsets.len()) && offsets.last() == Some(&300), "{}", offsets.len());
    // Others come: the one that keeps much gives again, though nothing is published there.
    for n in 0..200 {
        env.publish(&format!("other{n}"), &"x".repeat(1000)).await;
    }
    let left = env.backlog("large", Start::Backlog(1000)).0.len();
    assert!(left < offsets.len() / 2, "{left}");
    assert_eq!(env.backlog("small3", Start::Backlog(1)), (vec![1], true));
}
