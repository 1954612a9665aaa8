//! From backlog to live, with real threads: a subscriber receives everything once and in order, whenever it joins.

use std::sync::atomic::{AtomicBool, Ordering};

use lastmile::broker::Now;
use lastmile::broker::engine::Start;
use lastmile::protocol::{ErrorCode, Payload, Position};
use test_support::eventually;

use crate::suite::each_engine;
use crate::support::{Kind, Subscriber, TestEnv, name, place, publish, rule};

each_engine!(backlog_and_live_join_without_gap, concurrent_publications_keep_order,);

const PUBLISHERS: usize = 4;
const EACH: u64 = 150;

async fn backlog_and_live_join_without_gap(kind: Kind) {
    let mut env = TestEnv::new(kind, rule());
    let engine = env.engine.take().unwrap();
    let done = AtomicBool::new(false);
    let runtime = tokio::runtime::Handle::current();
    let subscribers = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let (engine, runtime) = (&engine, runtime.clone());
                scope.spawn(move || {
                    runtime.block_on(async {
                        for n in 0..EACH {
                            publish(&**engine, "c", &format!("{publisher}-{n}")).await.unwrap();
                        }
                    });
                })
            })
            .collect();
        let joiners: Vec<_> = (0..3u64)
            .map(|joiner| {
                let (engine, done, runtime) = (&engine, &done, runtime.clone());
                scope.spawn(move || {
                    let _entered = runtime.enter();
                    let (mut all, mut from) = (Vec::new(), None::<Position>);
                    while !done.load(Ordering::Relaxed) && all.len() < 200 {
                        // From where the last one began to listen, from the start, or from some place in between.
                        let start = match (&from, joiner) {
                            (None, _) | (_, 0) => Start::Backlog(all.len() as u64 * 7),
                            (Some(position), 1) => Start::Since(position.clone()),
                            (Some(position), _) => Start::Since(Position { offset: 0, ..position.clone() }),
                        };
                        let subscriber = Subscriber::join(&**engine, "c", start.clone()).unwrap();
                        from = Some(subscriber.position.clone());
                        all.push((start, subscriber));
                    }
                    all
                })
            })
            .collect();
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        done.store(true, Ordering::Relaxed);
        joiners.into_iter().flat_map(|joiner| joiner.join().unwrap()).collect::<Vec<_>>()
    });
    let last = PUBLISHERS as u64 * EACH;
    for (start, subscriber) in &subscribers {
        let joined_at = subscriber.position.offset;
        let first = match start {
            Start::Live => joined_at + 1,
            Start::Backlog(count) => joined_at.saturating_sub(*count) + 1,
            Start::Since(position) => position.offset + 1,
        };
        eventually(&format!("everything behind {start:?}, joined at {joined_at}"), async || {
            let offsets = subscriber.offsets();
            let expected: Vec<u64> = (first..=last).take(offsets.len()).collect();
            assert_eq!(offsets, expected, "{start:?}, joined at {joined_at}");
            (offsets.len() as u64 == last + 1 - first).then_some(())
        })
        .await;
    }
    // Each publisher's own order is kept.
    let everything = Subscriber::join(&*engine, "c", Start::Backlog(last)).unwrap();
    for publisher in 0..PUBLISHERS {
        let own: Vec<_> = everything.data().into_iter().filter(|d| d.starts_with(&format!("{publisher}-"))).collect();
        assert_eq!(own, (0..EACH).map(|n| format!("{publisher}-{n}")).collect::<Vec<_>>());
    }
}

async fn concurrent_publications_keep_order(kind: Kind) {
    let env = TestEnv::new(kind, rule());
    let mut whole = 0;
    for round in 0..5 {
        // Many times what a connection to an engine elsewhere takes at once.
        let begin = |n: u64| env.engine().append(&name("c"), "p", Payload::Text(&n.to_string()), Now::read());
        let begun: Vec<_> = (1..=2000).map(begin).collect();
        let (mut offsets, mut refused) = (Vec::new(), 0);
        for appended in begun {
            let placed = async { place(appended?).await };
            match placed.await {
                Ok(position) => offsets.push(position.offset),
                // A busy machine does not get through them before an engine elsewhere counts as away.
                Err(refusal) => {
                    assert!(kind == Kind::Redis && refusal.code == ErrorCode::EngineUnavailable, "{refusal:?}");
                    refused += 1;
                }
            }
        }
        assert!(offsets.is_sorted_by(|one, next| one < next), "{offsets:?}");
        if refused > 0 {
            eventually("the engine", async || env.try_publish("c", "x").await.ok()).await;
            continue;
        }
        if whole == round {
            assert_eq!(offsets, (1..=2000).map(|n| round * 2000 + n).collect::<Vec<_>>());
        }
        whole += 1;
    }
    assert!(whole > 0, "no round was acknowledged as a whole");
}
