//! The suite for every engine.

use std::time::{Duration, Instant};

use lastmile::broker::engine::{Created, Start};
use lastmile::broker::{ChannelLimits, ChannelRule, Now};
use lastmile::protocol::{ErrorCode, Position};
use test_support::eventually;

use crate::support::{Kind, NO_LIMITS, Subscriber, TestEnv, name, rule};

/// A test for every engine.
macro_rules! each_engine {
    ($($test:ident),* $(,)?) => {
        mod redis { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(crate::support::Kind::Redis).await }
        )* }
        crate::suite::each_local_engine!($($test),*);
    };
}
pub(crate) use each_engine;

/// A test for every engine whose channels, and whose time, are this process's.
macro_rules! each_local_engine {
    ($($test:ident),* $(,)?) => {
        mod memory { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(crate::support::Kind::Memory).await }
        )* }
        mod disk { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(crate::support::Kind::Disk).await }
        )* }
    };
}
pub(crate) use each_local_engine;

each_engine!(
    offsets_rise_and_gaps_are_reported,
    channel_lifecycle,
    limits_end_channel_for_good,
    backlog_is_bounded,
    last_slot_is_given_once,
);

mod times {
    use super::{lifespan_ends_channel_on_time, only_unused_channels_are_removed};

    crate::suite::each_local_engine!(lifespan_ends_channel_on_time, only_unused_channels_are_removed,);
}

fn since(position: &Position, offset: u64) -> Start {
    Start::Since(Position { epoch: position.epoch.clone(), offset })
}

/// So many seconds from now.
fn later(secs: u64) -> Now {
    Now { monotonic: Instant::now() + Duration::from_secs(secs), ..Now::read() }
}

async fn offsets_rise_and_gaps_are_reported(kind: Kind) {
    let env = TestEnv::new(kind, ChannelRule { backlog_messages: 3, ..rule() });
    let mut last = env.publish("c", "1").await;
    for n in 2..=5 {
        let position = env.publish("c", &n.to_string()).await;
        assert_eq!((position.offset, &position.epoch), (n, &last.epoch));
        last = position;
    }
    let other = Position { epoch: "other".into(), offset: 5 };
    for (start, offsets, recovered) in [
        (Start::Live, vec![], false),
        (since(&last, 5), vec![], true),
        (since(&last, 3), vec![4, 5], true),
        (since(&last, 2), vec![3, 4, 5], true),
        (since(&last, 1), vec![3, 4, 5], false),
        (since(&last, 6), vec![3, 4, 5], false),
        (Start::Since(other), vec![3, 4, 5], false),
        (Start::Backlog(2), vec![4, 5], true),
        (Start::Backlog(9), vec![3, 4, 5], false),
    ] {
        assert_eq!(env.backlog("c", start.clone()), (offsets, recovered), "{start:?}");
    }
}

async fn channel_lifecycle(kind: Kind) {
    let env = TestEnv::new(kind, rule());
    let (engine, c) = (env.engine(), name("c"));
    assert!(env.describe("c").await.is_none());
    let limits = ChannelLimits { max_messages: 7, ..NO_LIMITS };
    assert_eq!(engine.create(&c, Some(limits.clone()), Now::read()).await, Ok(Created::New));
    assert_eq!(engine.create(&c, Some(limits.clone()), Now::read()).await, Ok(Created::Again));
    let refused = engine.create(&c, Some(NO_LIMITS), Now::read()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::ChannelExists);
    let first = env.publish("c", "one").await;
    let subscriber = env.join("c", Start::Live);
    let state = env.describe("c").await.unwrap();
    assert_eq!((&state.position, state.data_bytes, state.subscribers), (&first, 3, 1));
    assert_eq!(state.limits, limits);

    assert_eq!(engine.close(&c).await, Ok(true));
    assert_eq!(engine.close(&c).await, Ok(false));
    eventually("the end", async || (!subscriber.membership.is_active()).then_some(())).await;
    eventually("the last frame", async || {
        subscriber.frames().last().filter(|frame| frame["reason"] == "channel_closed").map(|_| ())
    })
    .await;
    assert!(env.describe("c").await.is_none());
    let second = env.publish("c", "two").await;
    assert!(second.offset == 1 && second.epoch != first.epoch);
    assert_eq!(env.backlog("c", since(&first, 1)), (vec![1], false));
}

async fn limits_end_channel_for_good(kind: Kind) {
    let limits = ChannelLimits { max_messages: 2, max_message_bytes: 10, ..NO_LIMITS };
    let env = TestEnv::new(kind, ChannelRule { limits, ..rule() });
    let subscriber = env.join("c", Start::Live);
    assert_eq!(env.try_publish("c", "longer than ten").await.unwrap_err().code, ErrorCode::MessageTooLarge);
    // All three are on their way at once.
    let (one, two, three) =
        tokio::join!(env.try_publish("c", "1"), env.try_publish("c", "2"), env.try_publish("c", "3"));
    assert_eq!((one.unwrap().offset, two.unwrap().offset), (1, 2));
    assert_eq!(three.unwrap_err().code, ErrorCode::LimitReached);
    eventually("the end", async || (!subscriber.membership.is_active()).then_some(())).await;
    eventually("the last frame", async || {
        let frames = subscriber.frames();
        let kinds: Vec<_> = frames.iter().map(|frame| frame["type"].as_str().unwrap().to_owned()).collect();
        (kinds == ["message", "message", "unsubscribed"]).then_some(())
    })
    .await;
    assert_eq!(env.try_publish("c", "4").await.unwrap_err().code, ErrorCode::LimitReached);
    assert!(Subscriber::join(env.engine(), "c", Start::Live).is_err());
    assert_eq!(env.engine().create(&name("c"), None, Now::read()).await, Ok(Created::New));
    assert_eq!(env.publish("c", "5").await.offset, 1);
}

async fn lifespan_ends_channel_on_time(kind: Kind) {
    let limits = ChannelLimits { lifespan: Duration::from_secs(30), ..NO_LIMITS };
    let env = TestEnv::new(kind, ChannelRule { limits, ..rule() });
    let subscriber = env.join("c", Start::Live);
    env.publish("c", "1").await;
    env.engine().sweep(later(20));
    assert!(subscriber.membership.is_active());
    env.engine().sweep(later(31));
    eventually("the end", async || (!subscriber.membership.is_active()).then_some(())).await;
    assert_eq!(env.try_publish("c", "2").await.unwrap_err().code, ErrorCode::ChannelEnded);
    assert_eq!(env.engine().create(&name("c"), None, Now::read()).await, Ok(Created::New));
    assert_eq!(env.publish("c", "3").await.offset, 1);
}

async fn only_unused_channels_are_removed(kind: Kind) {
    let env = TestEnv::new(kind, rule());
    env.publish("idle", "1").await;
    env.publish("used", "1").await;
    let _subscriber = env.join("used", Start::Live);
    env.engine().sweep(later(50));
    assert!(env.describe("idle").await.is_some());
    env.engine().sweep(later(61));
    eventually("the idle channel to go", async || env.describe("idle").await.is_none().then_some(())).await;
    assert!(env.describe("used").await.is_some());
    // Until it is removed from the store as well, publishers receive a temporary error.
    let begun_anew = eventually("a new channel", async || env.try_publish("idle", "1").await.ok()).await;
    assert_eq!(begun_anew.offset, 1);
}

async fn backlog_is_bounded(kind: Kind) {
    let env = TestEnv::new(kind, ChannelRule { backlog_bytes: 5000, ..rule() });
    for _ in 0..20 {
        env.publish("c", &"x".repeat(1000)).await;
    }
    let (offsets, recovered) = env.backlog("c", Start::Backlog(20));
    assert!(!recovered && (2..5).contains(&offsets.len()) && offsets.last() == Some(&20), "{offsets:?}");

    let env = TestEnv::new(kind, ChannelRule { backlog_age: Duration::from_secs(30), ..rule() });
    let position = env.publish("c", "1").await;
    assert_eq!(env.backlog("c", since(&position, 0)), (vec![1], true));
    env.engine().sweep(later(31));
    assert_eq!(env.backlog("c", since(&position, 0)), (vec![], false));
    assert_eq!(env.backlog("c", since(&position, 1)), (vec![], true));
}

async fn last_slot_is_given_once(kind: Kind) {
    let limits = ChannelLimits { max_connections: 3, ..NO_LIMITS };
    let env = TestEnv::new(kind, ChannelRule { limits, ..rule() });
    let runtime = tokio::runtime::Handle::current();
    let joined = std::thread::scope(|scope| {
        let join = || {
            let _entered = runtime.enter();
            Subscriber::join(env.engine(), "c", Start::Live)
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(join)).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap().ok()).collect::<Vec<_>>()
    });
    assert_eq!(joined.len(), 3);
}
