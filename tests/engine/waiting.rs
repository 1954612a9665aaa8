//! Names that subscribers wait for: no channel, nothing left behind, and no publication missed.

use lastmile::broker::ChannelRule;
use lastmile::broker::engine::{Created, Start};
use lastmile::broker::{Engine, Now};
use lastmile::engine::{MemoryLimits, WaitingLimits};
use lastmile::protocol::{ErrorCode, Position};
use test_support::{RedisServer, eventually};

use crate::nodes::Node;
use crate::support::{Kind, LIMITS, Subscriber, TestEnv, name, redis_node, rule};

crate::suite::each_engine!(
    waiting_subscriber_gets_first_publication,
    position_outlives_its_subscriber,
    removed_channel_never_returns,
    shares_bound_waiting_names,
);

fn since(position: &Position) -> Start {
    Start::Since(position.clone())
}

/// A Redis node forgets a name with its next sweep.
fn leave(env: &TestEnv, subscriber: Subscriber) {
    drop(subscriber);
    env.engine().sweep(Now::read());
}

async fn waiting_subscriber_gets_first_publication(kind: Kind) {
    let env = TestEnv::new(kind, rule());
    for (channel, is_created) in [("published", false), ("created", true)] {
        let subscriber = env.join(channel, Start::Live);
        assert_eq!(subscriber.position.offset, 0);
        let state = env.describe(channel).await.unwrap();
        assert!(state.is_waiting && state.position == subscriber.position && state.subscribers == 1, "{state:?}");
        if is_created {
            assert_eq!(env.engine().create(&name(channel), None, Now::read()).await, Ok(Created::New));
            assert_eq!(env.describe(channel).await.unwrap().position, subscriber.position);
        }
        let first = env.publish(channel, "1").await;
        assert_eq!(first, Position { offset: 1, ..subscriber.position.clone() });
        eventually("the publication", async || (subscriber.offsets() == [1]).then_some(())).await;
        assert!(subscriber.membership.is_active());
        assert_eq!(env.describe(channel).await.unwrap().subscribers, 1);
        env.publish(channel, "2").await;
        leave(&env, subscriber);
        assert_eq!(env.describe(channel).await.unwrap().position.offset, 2, "a channel outlives its subscribers");
    }
}

async fn position_outlives_its_subscriber(kind: Kind) {
    let env = TestEnv::new(kind, rule());
    let first = env.join("c", Start::Live);
    let position = first.position.clone();
    leave(&env, first);
    let second = env.join("c", since(&position));
    assert_eq!((&second.position, second.recovered), (&position, true));
    leave(&env, second);
    assert_eq!(env.publish("c", "1").await, Position { offset: 1, ..position.clone() });
    env.publish("c", "2").await;
    assert_eq!(env.backlog("c", since(&position)), (vec![1, 2], true));
}

async fn removed_channel_never_returns(kind: Kind) {
    let env = TestEnv::new(kind, rule());
    let mut epochs = vec![env.join("c", Start::Live).position.epoch];
    for life in 0..4 {
        let waiting = env.join("c", Start::Live);
        assert_eq!(Some(&waiting.position.epoch), epochs.last());
        let last = env.publish("c", "1").await;
        assert_eq!(Some(&last.epoch), epochs.last());
        leave(&env, waiting);
        assert_eq!(env.engine().close(&name("c")).await, Ok(true));
        let next = if life % 2 == 0 { env.join("c", since(&last)) } else { env.join("c", Start::Live) };
        assert!(!next.recovered && !epochs.contains(&next.position.epoch), "{epochs:?}, {:?}", next.position);
        epochs.push(next.position.epoch.clone());
        leave(&env, next);
    }
}

async fn shares_bound_waiting_names(kind: Kind) {
    let waiting = WaitingLimits { max_names: 100, max_names_per_holder: 3 };
    let env = TestEnv::with(kind, rule(), MemoryLimits { waiting, ..LIMITS });
    env.publish("published", "1").await;
    let mut held: Vec<_> = ["a", "b", "c"].map(|channel| env.join(channel, Start::Live)).into();
    let refusal = Subscriber::join(env.engine(), "d", Start::Live).err().unwrap();
    assert_eq!((refusal.code, refusal.is_temporary()), (ErrorCode::LimitReached, true));
    // A second subscription to the same name takes nothing, and neither does a channel.
    held.push(env.join("a", Start::Live));
    env.publish("e", "1").await;
    held.push(env.join("e", Start::Live));
    drop(env.join("published", Start::Live));
    // A name is free once it is a channel, and once its last subscriber left.
    env.publish("b", "1").await;
    eventually("room", async || Subscriber::join(env.engine(), "f", Start::Live).ok().map(|one| held.push(one))).await;
    drop(held.remove(0));
    assert!(Subscriber::join(env.engine(), "g", Start::Live).is_err(), "`a` has another subscriber");
    held.retain(|subscriber| subscriber.membership.channel().as_str() != "a");
    held.push(env.join("g", Start::Live));
    assert!(Subscriber::join(env.engine(), "h", Start::Live).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn position_outlives_the_process() {
    let mut env = TestEnv::new(Kind::Disk, rule());
    let waiting = env.join("c", Start::Live).position;
    let gone = env.publish("gone", "1").await;
    assert_eq!(env.engine().close(&name("gone")).await, Ok(true));
    let next = env.join("gone", Start::Live).position;
    env.restart();
    let back = env.join("c", since(&waiting));
    assert_eq!((&back.position, back.recovered), (&waiting, true));
    let back = env.join("gone", since(&next));
    assert!(back.recovered && back.position == next && next.epoch != gone.epoch);
    assert_eq!(env.publish("c", "1").await, Position { offset: 1, ..waiting.clone() });
    env.restart();
    assert_eq!(env.backlog("c", since(&waiting)), (vec![1], true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_names_leave_redis_empty() {
    let server = RedisServer::start(false);
    let nodes = [(); 2].map(|()| Node::on(&server, &rule()));
    let keys = || server.command("KEYS *").unwrap();
    let mut held = Vec::new();
    for n in 0..40 {
        held.push(nodes[n % 2].join(&format!("w{}", n / 2), Start::Live));
    }
    eventually("the reservations", async || (keys().matches(":{/w").count() == 40).then_some(())).await;
    assert!(!keys().contains(":state") && !keys().contains(":log"), "{}", keys());
    // The other node still waits for each.
    held.retain(|subscriber| subscriber.connection.id == 1 && subscriber.membership.is_active());
    for at in (0..40).step_by(2).rev() {
        drop(held.remove(at));
    }
    eventually("one node to leave", async || {
        let seats = server.command("HLEN test:{/w3}:seats").unwrap();
        (seats == ":1\r\n").then_some(())
    })
    .await;
    assert!(keys().contains(":{/w3}:wait"), "{}", keys());
    let first = nodes[0].publish("w3", "1").await;
    eventually("its first publication", async || (held[3].offsets() == [1]).then_some(())).await;
    assert_eq!(first.epoch, held[3].position.epoch);
    held.clear();
    let names = || server.command("PUBSUB CHANNELS test:*:live").unwrap();
    eventually("nothing to be left", async || {
        let is_clean = |text: String| text.lines().all(|line| !line.contains(":{/w") || line.contains(":{/w3}"));
        (is_clean(keys()) && is_clean(names())).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_spans_nodes() {
    let server = RedisServer::start(false);
    let nodes = [(); 2].map(|()| Node::on(&server, &ChannelRule { backlog_messages: 0, ..rule() }));
    let subscribers = [nodes[0].join("c", Start::Live), nodes[1].join("c", Start::Live)];
    assert_eq!(subscribers[0].position, subscribers[1].position);
    for n in 1..=3 {
        let position = nodes[n % 2].publish("c", "x").await;
        assert_eq!(position, Position { offset: n as u64, ..subscribers[0].position.clone() });
    }
    for subscriber in &subscribers {
        eventually("all three", async || (subscriber.offsets() == [1, 2, 3]).then_some(())).await;
        assert!(subscriber.membership.is_active());
    }
    // A close reaches names without a channel as well.
    let waiting = nodes[1].join("d", Start::Live);
    assert_eq!(nodes[0].engine.close(&name("d")).await, Ok(true));
    eventually("the end", async || (!waiting.membership.is_active()).then_some(())).await;
    assert_eq!(nodes[0].engine.close(&name("e")).await, Ok(false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_wait_keeps_its_epoch() {
    let server = RedisServer::start(false);
    // Epochs of names without a channel change with every period of this length.
    let limits = MemoryLimits { idle: std::time::Duration::from_secs(1), ..LIMITS };
    let nodes = [(); 2].map(|()| Node::new(redis_node(&server.url(), &rule(), limits)));
    let waiting = nodes[0].join("c", Start::Live);
    eventually("its reservation", async || {
        server.command("GET test:{/c}:wait")?.contains(&*waiting.position.epoch).then_some(())
    })
    .await;
    let epoch_of_other = |n: u32| nodes[1].join(&format!("other{n}"), Start::Live).position.epoch;
    let (first, mut changes) = (epoch_of_other(0), 0);
    eventually("a few periods", async || {
        drop(nodes[1].join("other0", Start::Live));
        changes += u32::from(epoch_of_other(0) != first);
        (changes > 3).then_some(())
    })
    .await;
    assert_eq!(nodes[1].join("c", Start::Live).position, waiting.position);
    assert_eq!(nodes[1].publish("c", "1").await, Position { offset: 1, ..waiting.position.clone() });
    eventually("the publication", async || (waiting.offsets() == [1]).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_redis_is_reported() {
    let server = RedisServer::start(false);
    let node = Node::on(&server, &rule());
    let subscriber = node.join("c", Start::Live);
    let mut last = node.publish("c", "1").await;
    last = Position { offset: node.publish("c", "2").await.offset, ..last };
    eventually("both", async || (subscriber.offsets() == [1, 2]).then_some(())).await;
    server.command("FLUSHALL").unwrap();
    eventually("the report", async || {
        node.publish("c", "3").await;
        (!subscriber.membership.is_active()).then_some(())
    })
    .await;
    assert_eq!(subscriber.offsets(), [1, 2]);
    assert!(!node.join("c", since(&last)).recovered);
}
